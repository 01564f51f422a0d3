use serde_json::{Map, Value, json};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/chat");

fn fixture(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(format!("{FIXTURES}/{name}")).unwrap()).unwrap()
}

/// A tokenizer with this template and nothing else that templates could read except the ends of a text.
fn with_templates(templates: ChatTemplates) -> Tokenizer {
    let backend = tokenizers::Tokenizer::new(tokenizers::models::wordlevel::WordLevel::default());
    let mut named = crate::tokens::NamedTokens::default();
    named.set("bos_token", "<s>");
    named.set("eos_token", "</s>");
    let manners = crate::tokens::Manners::default();
    Tokenizer::new(backend, named, templates, Map::new(), manners, Vec::new()).unwrap()
}

fn with_template(template: &str) -> Tokenizer {
    with_templates(ChatTemplates::of(Some(template.to_owned())))
}

fn messages(value: &Value) -> Vec<Message> {
    value.as_array().unwrap().iter().map(|m| Message::from(m.as_object().unwrap().clone())).collect()
}

fn refusal(template: &str) -> String {
    let error =
        with_template(template).chat(&[Message::new("user", "Hi")], &ChatOptions::default()).unwrap_err();
    error.to_string()
}

#[test]
fn expressions_give_what_python_gives() {
    let cases = fixture("expressions.json");
    let messages = messages(&cases["messages"]);
    let options = ChatOptions { answer: Answer::Awaited, ..ChatOptions::default() };
    let mut wrong = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let rendered = with_template(template).chat(&messages, &options).map(|chat| chat.text);
        let expected = case["rendered"].as_str();
        if rendered.as_deref().ok() != expected {
            wrong.push(format!("{template}\n  python {expected:?}\n  here   {rendered:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of the cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn templates_of_published_models_give_what_transformers_gives() {
    let (expected, conversations) = (fixture("templates.json"), fixture("conversations.json"));
    for case in expected["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = std::fs::read_to_string(format!("{FIXTURES}/templates/{name}.jinja")).unwrap();
        let mut options = ChatOptions {
            now: Some(expected["now"].as_str().unwrap().parse().unwrap()),
            ..ChatOptions::default()
        };
        let conversation = &conversations[case["conversation"].as_str().unwrap()];
        for (name, value) in conversation.as_object().unwrap() {
            match name.as_str() {
                "messages" => {}
                "add_generation_prompt" if value == &json!(true) => options.answer = Answer::Awaited,
                "add_generation_prompt" => options.answer = Answer::None,
                _ => options.set(name, value.clone()).unwrap(),
            }
        }
        let rendered = with_template(&template).chat(&messages(&conversation["messages"]), &options);
        let rendered = rendered.map(|chat| chat.text).ok();
        assert_eq!(rendered.as_deref(), case["rendered"].as_str(), "{name} of {}", case["conversation"]);
    }
}

#[test]
fn no_template_takes_the_memory_the_time_or_the_stack() {
    let mut wrong = Vec::new();
    for case in fixture("hostile.json").as_array().unwrap() {
        let mut template = case["template"].as_str().unwrap().to_owned();
        if let Some(repeat) = case["repeat"].as_array() {
            let times = repeat[1].as_u64().unwrap() as usize;
            template = template.replace('$', &repeat[0].as_str().unwrap().repeat(times));
            template.push_str(case["then"].as_str().unwrap_or_default());
        }
        let began = std::time::Instant::now();
        let result = with_template(&template).chat(&[Message::new("user", "Hi")], &ChatOptions::default());
        let says = case["says"].as_str().unwrap();
        let is_right = match &result {
            Ok(chat) => says.is_empty() && chat.text.len() < 10_000_000,
            Err(error) => error.to_string().contains(says),
        };
        if !is_right || began.elapsed().as_secs() > 15 {
            let said = result.map(|chat| chat.text.chars().take(60).collect::<String>());
            wrong.push(format!("{} {:?} {said:?}", case["is"], began.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_time_that_is_given_makes_the_same_text_and_one_that_is_not_asked_for_is_not_told() {
    let tokenizer = with_template("{{ strftime_now('%d %b %Y') }}");
    let chat = |tokenizer: &Tokenizer, now: Option<&str>| {
        let now = now.map(|now| now.parse().unwrap());
        tokenizer.chat(&[Message::new("user", "Hi")], &ChatOptions { now, ..ChatOptions::default() }).unwrap()
    };
    let given = chat(&tokenizer, Some("2024-07-26"));
    assert_eq!(given.text, "26 Jul 2024");
    assert_eq!(given.now.unwrap().to_string(), "2024-07-26T00:00:00");
    let present = chat(&tokenizer, None);
    let again = chat(&tokenizer, Some(&present.now.unwrap().to_string()));
    assert_eq!(present.text, again.text);
    assert_eq!(chat(&with_template("{{ messages[0].role }}"), None).now, None);
    assert!("yesterday".parse::<LocalTime>().unwrap_err().to_string().contains("not a day"));
}

#[test]
fn times_are_written_as_pythons_strftime_writes_them() {
    let cases = fixture("strftime.json");
    for case in cases.as_array().unwrap() {
        let now: LocalTime = case["now"].as_str().unwrap().parse().unwrap();
        let format = case["format"].as_str().unwrap();
        assert_eq!(now.strftime(format), case["written"].as_str().unwrap(), "{format} of {now}");
    }
}

#[test]
fn the_template_is_chosen_as_transformers_chooses_it() {
    let mut several = ChatTemplates::of(Some("{{ 'default' }}".to_owned()));
    several.insert("tool_use", "{{ 'tool_use' }}".to_owned());
    several.insert("rag", "{{ 'rag' }}".to_owned());
    let tokenizer = with_templates(several.clone());
    let chosen = |template: Option<&str>, tools: Option<Vec<Value>>| {
        let template = template.map(str::to_owned);
        let options = ChatOptions { template, tools, ..ChatOptions::default() };
        tokenizer
            .chat(&[Message::new("user", "Hi")], &options)
            .map(|chat| chat.text)
            .map_err(|e| e.to_string())
    };
    assert_eq!(chosen(None, None).unwrap(), "default");
    assert_eq!(chosen(None, Some(vec![json!({})])).unwrap(), "tool_use");
    assert_eq!(chosen(None, Some(Vec::new())).unwrap(), "tool_use");
    assert_eq!(chosen(Some("rag"), None).unwrap(), "rag");
    assert_eq!(chosen(Some("{{ 'mine' }}"), Some(vec![json!({})])).unwrap(), "mine");
    assert!(chosen(Some("other"), None).unwrap_err().contains("no chat template `other`"));

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config =
        json!({"chat_template": [{"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"}]});
    let config = config.as_object().unwrap();
    let read = || {
        ChatTemplates::read(folder.path(), config, |path| Ok(std::fs::read_to_string(path).unwrap())).unwrap()
    };
    let names = |templates: &ChatTemplates| templates.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&read()), ["rag", "tool_use"]);
    let error =
        with_templates(read()).chat(&[Message::new("user", "Hi")], &ChatOptions::default()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("`rag`, `tool_use`"), "{error}");
    // An object of named ones, too, as transformers reads it.
    let named = json!({"chat_template": {"default": "d", "rag": "r"}});
    let named = ChatTemplates::read(folder.path(), named.as_object().unwrap(), |_| unreachable!()).unwrap();
    assert_eq!(named.iter().collect::<Vec<_>>(), [("default", "d"), ("rag", "r")]);
    // A file next to the model overrides its settings.
    std::fs::create_dir(at("additional_chat_templates")).unwrap();
    std::fs::write(at("additional_chat_templates/short.jinja"), "s").unwrap();
    std::fs::write(at("chat_template.jinja"), "d").unwrap();
    assert_eq!(names(&read()), ["default", "short"]);
    // What is saved reads back the same.
    let saved = tempfile::tempdir().unwrap();
    with_templates(several.clone()).save(saved.path()).unwrap();
    let again = ChatTemplates::read(saved.path(), &Map::new(), |p| Ok(std::fs::read_to_string(p).unwrap()));
    let sorted = |templates: &ChatTemplates| {
        templates
            .iter()
            .map(|(n, t)| (n.to_owned(), t.to_owned()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(sorted(&again.unwrap()), sorted(&several));
}

#[test]
fn a_template_that_is_missing_or_wrong_is_an_error_with_its_line() {
    let error = with_templates(ChatTemplates::default())
        .chat(&[Message::new("user", "Hi")], &ChatOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("no chat template"));
    assert!(
        refusal("\n\n{{ raise_exception('roles must alternate') }}").contains("line 3: roles must alternate")
    );
    assert!(refusal("{% for x in %}").contains("the chat template"));
    assert!(refusal("{{ nothing.at.all }}").contains("the chat template"));
    let none = with_template("x").chat(&[], &ChatOptions::default()).unwrap_err();
    assert!(none.to_string().contains("empty"));
}

#[test]
fn variables_go_before_special_tokens_and_may_not_replace_the_conversation() {
    let mut options = ChatOptions::default();
    options.set("enable_thinking", json!(false)).unwrap();
    options.set("bos_token", json!("<B>")).unwrap();
    options.set("tools", json!([{"name": "f"}])).unwrap();
    let template = "{{ bos_token }}{{ eos_token }}{{ enable_thinking }}{{ tools[0].name }}";
    let chat = with_template(template).chat(&[Message::new("user", "Hi")], &options).unwrap();
    assert_eq!(chat.text, "<B></s>Falsef");
    for (name, value) in
        [("messages", json!([])), ("tools", json!("f")), ("a b", json!(1)), ("", json!(1)), ("1a", json!(1))]
    {
        assert!(options.set(name, value).is_err(), "{name:?} is taken");
    }
}

#[test]
fn a_variable_that_the_template_does_not_read_is_known() {
    let unread = |template: &str| {
        let mut options = ChatOptions::default();
        options.set("mood", json!("glad")).unwrap();
        options.set("tools", json!([])).unwrap();
        with_template(template).chat(&[Message::new("user", "Hi")], &options).unwrap().unread
    };
    assert_eq!(unread("{{ messages[0].mood }}"), ["mood", "tools"]);
    for read in [
        "{{ mood }}{{ tools }}",
        "{% set mood = mood|default('sad') %}{{ tools is defined }}",
        "{% if tools is none or mood is defined %}x{% endif %}",
        "{% macro say() %}{{ mood }}{{ tools }}{% endmacro %}{{ say() }}",
        "{% for x in tools %}{% endfor %}{% for x in [1] %}{{ mood }}{% endfor %}",
    ] {
        assert_eq!(unread(read), Vec::<String>::new(), "{read}");
    }
}

#[test]
fn a_message_is_continued_where_it_ends() {
    let continued = |template: &str, content: &str| {
        let messages = [Message::new("user", "Hi"), Message::new("assistant", content)];
        let options = ChatOptions { answer: Answer::Continued, ..ChatOptions::default() };
        with_template(template).chat(&messages, &options).map(|chat| chat.text).map_err(|e| e.to_string())
    };
    let plain = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    assert_eq!(continued(plain, "The answer ").unwrap(), "<Hi><The answer ");
    let trimmed = "{% for m in messages %}<{{ m.content|trim }}>{% endfor %}";
    assert_eq!(continued(trimmed, "The answer ").unwrap(), "<Hi><The answer");
    assert!(
        continued("{{ messages[0].content }}", "The answer").unwrap_err().contains("cannot be continued")
    );
}
