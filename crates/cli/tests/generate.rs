//! `run --generate`: streaming text, sampling, ends, chat.

use crate::common;

use common::{easyroutine, fails, json, path, succeeds, tiny};
use serde_json::Value;

fn continued(more: &[&str]) -> Value {
    let model = tiny("llama");
    json(&[&["run", "The quick brown", "-m", &model, "--generate", "9", "--format", "json"], more].concat())
}

fn ids(result: &Value) -> Vec<u64> {
    result["generated"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect()
}

#[test]
fn text_and_tokens_are_of_one_continuation() {
    let result = continued(&["--ignore-end"]);
    assert_eq!(result["schema"], "easyroutine.generate/1");
    assert_eq!((ids(&result).len(), &result["finish"]), (9, &Value::from("length")));
    let text = succeeds(&["run", "The quick brown", "-m", &tiny("llama"), "--generate", "9", "--ignore-end"]);
    assert_eq!(text.trim_end_matches('\n'), result["text"].as_str().unwrap().trim_end_matches('\n'));
    let table = succeeds(&[
        "run",
        "The quick brown",
        "-m",
        &tiny("llama"),
        "--generate",
        "2",
        "--ignore-end",
        "--format",
        "tsv",
    ]);
    assert_eq!(table.lines().count(), 3, "{table}");
    // The predicted next token is the one generated.
    let next = json(&["run", "The quick brown", "-m", &tiny("llama"), "-k", "1", "--format", "json"]);
    assert_eq!(next["top"][0]["id"], ids(&result)[0]);
}

#[test]
fn draws_are_the_same_for_the_same_seed() {
    let drawn = |seed| ids(&continued(&["--temperature", "2", "--ignore-end", "--seed", seed]));
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    assert_eq!(ids(&continued(&["--top-k", "1"])), ids(&continued(&[])));
    assert_eq!(ids(&continued(&["--temperature", "0"])), ids(&continued(&[])));
}

#[test]
fn interventions_hold_while_it_generates() {
    let (clean, changed) = (continued(&[]), continued(&["--intervene", "resid_in_1@all=0"]));
    assert_ne!(ids(&clean), ids(&changed));
    assert_eq!(changed["interventions"][0], "resid_in_1@all=0");
}

#[test]
fn it_ends_before_a_stop_string_and_at_the_ends_of_the_generation_config() {
    let whole = continued(&["--ignore-end"]);
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(2).take(2).collect();
    let cut = continued(&["--ignore-end", "--stop", &stop]);
    assert_eq!(cut["text"].as_str().unwrap(), text.split(&stop).next().unwrap());
    assert_eq!(cut["finish"], "stopped");

    let folder = common::copy("llama");
    let end = ids(&whole)[1];
    std::fs::write(folder.path().join("generation_config.json"), format!("{{\"eos_token_id\": [{end}]}}"))
        .unwrap();
    let ended = json(&["run", "The quick brown", "-m", path(&folder), "--generate", "9", "--format", "json"]);
    assert_eq!((ids(&ended), &ended["finish"]), (ids(&whole)[..2].to_vec(), &Value::from("end")));
}

#[test]
fn a_chat_goes_through_the_template() {
    let folder = common::copy("llama");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let chat = [
        "run",
        "Hi",
        "-m",
        path(&folder),
        "--chat",
        "--system",
        "Be brief.",
        "--format",
        "json",
        "--generate",
        "2",
    ];
    let result = json(&chat);
    let said: String =
        result["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(said, "[system] Be brief. [user] Hi >");
    let message = fails(1, &["run", "Hi", "-m", &tiny("llama"), "--chat"]);
    assert!(message.contains("no chat template"), "{message}");
}

#[test]
fn conversations_of_a_file_go_through_the_template_as_they_are() {
    let folder = common::copy("llama");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let file = folder.path().join("m.jsonl");
    let lines = concat!(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"the\"}]}\n",
    );
    std::fs::write(&file, lines).unwrap();
    let out = folder.path().join("a.safetensors");
    let words = [
        "extract",
        "--file",
        file.to_str().unwrap(),
        "--field",
        "messages",
        "-m",
        path(&folder),
        "-a",
        "input_ids",
        "-o",
        out.to_str().unwrap(),
    ];
    let message = fails(2, &words);
    assert!(message.contains("row 0: a prompt of the file is a conversation") && message.contains("--chat"));
    succeeds(&[&words[..], &["--chat"]].concat());
    let bytes = std::fs::read(&out).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = stored.tensor("input_ids").unwrap();
    let ids: Vec<i64> = ids.data().as_chunks::<8>().0.iter().map(|x| i64::from_le_bytes(*x)).collect();
    let cut = |text: &str| -> Vec<i64> {
        let cut = json(&["tokens", text, "-m", path(&folder), "--format", "json", "--bos", "no"]);
        cut["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_i64().unwrap()).collect()
    };
    // The second is continued, as in transformers' pipelines.
    assert_eq!(ids, [cut("[user] Hi >"), cut("[user] Hi [assistant] the")].concat());

    let system = "{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}]}\n";
    std::fs::write(&file, system).unwrap();
    let message = fails(2, &[&words[..], &["--chat", "--system", "c"]].concat());
    assert!(message.contains("begins with a system message of its own"), "{message}");
}

/// A model whose template writes the date, a variable and its tools.
fn dated() -> tempfile::TempDir {
    let folder = common::copy("llama");
    let template =
        "{{ bos_token }}[{{ strftime_now('%d %b %Y') }}{{ mood }}{{ tools }}]{{ messages[-1].content }}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let settings = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>"}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    // Its tokenizer begins every text with the token.
    let file = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let id = added.iter().find(|token| token["content"] == "<bos>").unwrap()["id"].clone();
    tokenizer["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [id], "tokens": ["<bos>"]}},
    });
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    folder
}

#[test]
fn what_a_template_was_given_stands_in_the_record() {
    let folder = dated();
    let ask = |more: &[&str]| {
        json(&[&["tokens", "Hi", "-m", path(&folder), "--chat", "--format", "json"], more].concat())
    };
    let text = |result: &Value| -> String {
        result["tokens"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap()).collect()
    };
    let tools = folder.path().join("tools.json");
    std::fs::write(&tools, r#"[{"name": "f"}]"#).unwrap();
    let more =
        ["--chat-now", "2024-07-26", "--chat-var", "mood=glad", "--chat-tools", tools.to_str().unwrap()];
    let given = ask(&more);
    assert_eq!(text(&given), "<bos>[26 Jul 2024glad[{'name': 'f'}]]Hi");
    let expected = serde_json::json!({
        "variables": {"mood": "glad"}, "tools": [{"name": "f"}], "now": "2024-07-26T00:00:00",
    });
    assert_eq!(given["chat"], expected);
    // Values given without a request produce the same text again.
    let present = ask(&[]);
    let again = ask(&["--chat-now", present["chat"]["now"].as_str().unwrap()]);
    assert_eq!(present, again);

    let file = folder.path().join("a.safetensors");
    let (out, base) = (file.to_str().unwrap(), format!("{}/", path(&folder)));
    let extract = ["extract", "Hi", "-m", path(&folder), "-a", "resid_out_0", "--positions", "last"];
    succeeds(&[&extract[..], &["--chat"], &more, &["-o", out]].concat());
    let bytes = std::fs::read(&file).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let record: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["chat"]).unwrap();
    assert_eq!(record, expected);
    succeeds(&[&extract[..], &["--chat"], &more, &["-o", &base]].concat());
    // Another process that resumes the run must give the same time.
    let output = easyroutine(&[&extract[..], &["--chat", "-o", out]].concat()).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(said.contains("--chat-now 2"), "{said}");
    let query = "extraction_config.chat.now = '2024-07-26T00:00:00'";
    let found = json(&["runs", "-b", &base, "query", query, "--format", "json"]);
    assert_eq!(found["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_variable_that_no_template_reads_is_named() {
    let folder = dated();
    let model = path(&folder);
    let said = |words: &[&str]| {
        String::from_utf8(easyroutine(words).assert().success().get_output().stderr.clone()).unwrap()
    };
    let idle = ["--chat", "--chat-var", "mood=glad", "--chat-var", "mod=sad", "--chat-var", "documents=[]"];
    let expected = "the chat template does not read `mod`, `documents`: setting that changes nothing";
    assert!(said(&[&["tokens", "Hi", "-m", model], &idle[..]].concat()).contains(expected));
    let out = folder.path().join("a.safetensors");
    let extract = ["extract", "Hi", "-m", model, "-a", "resid_out_0", "-o", out.to_str().unwrap()];
    assert!(said(&[&extract[..], &idle].concat()).contains(expected));
    assert!(!said(&[&["tokens", "Hi", "-m", model], &idle[..3]].concat()).contains("does not read"));
}

#[test]
fn a_second_beginning_of_the_text_is_not_unseen() {
    let folder = dated();
    let warns = |words: &[&str]| {
        let output = easyroutine(words).assert().success().get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        said.contains("puts another in front") || said.contains("the chat template writes too")
    };
    let model = path(&folder);
    assert!(warns(&["tokens", "<bos>Hi", "-m", model]));
    assert!(!warns(&["tokens", "<bos>Hi", "-m", model, "--bos", "no"]));
    assert!(!warns(&["tokens", "Hi", "-m", model]));
    assert!(warns(&["tokens", "<bos>Hi", "-m", model, "--chat"]));
    assert!(!warns(&["tokens", "Hi", "-m", model, "--chat"]));
    let file = folder.path().join("p.jsonl");
    std::fs::write(&file, "{\"text\": \"a\"}\n{\"text\": \"<bos>b\"}\n").unwrap();
    let out = folder.path().join("a.safetensors");
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    assert!(warns(&["extract", "--file", file, "-m", model, "-a", "resid_out_0", "-o", out]));
    let message = fails(2, &["tokens", "Hi", "-m", model, "--chat", "--bos", "no"]);
    assert!(message.contains("--bos changes nothing"), "{message}");
}

#[test]
fn what_means_nothing_is_a_usage_error() {
    for (more, part) in [
        (&["--temperature", "-1"][..], "temperature -1"),
        (&["--top-p", "1.5"], "top-p 1.5"),
        (&["--top-k", "0"], "top-k 0"),
        (&["--temperature", "0", "--top-k", "4"], "draws nothing"),
    ] {
        let model = tiny("llama");
        let arguments = [&["run", "Hi", "-m", &model, "--generate", "3"], more].concat();
        let message = fails(2, &arguments);
        assert!(message.contains(part), "{message}");
    }
    let output = easyroutine(&["run", "Hi", "-m", &tiny("llama"), "--stop", "x"])
        .assert()
        .code(2)
        .get_output()
        .clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--generate"));
}

#[test]
fn activations_of_new_tokens_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let model = tiny("llama");
    let asked =
        ["extract", "The quick brown", "-m", &model, "-a", "input_ids,resid_out_1", "--generate", "9"];
    let keep = |more: &[&str]| {
        succeeds(&[&asked, more, &["--ignore-end", "-o", file.to_str().unwrap()]].concat());
        std::fs::read(&file).unwrap()
    };
    let bytes = keep(&["--positions", "all", "--positions", "last"]);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.tensor("input_ids").unwrap();
    let kept: Vec<u64> =
        kept.data().chunks_exact(8).map(|x| u64::from_le_bytes(x.try_into().unwrap())).collect();
    let result = continued(&["--ignore-end"]);
    let prompt: Vec<u64> =
        result["tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    // Every token, then the last of the prompt.
    assert_eq!(kept, [&prompt[..], &ids(&result), &prompt[prompt.len() - 1..]].concat());
    let changed = ["--intervene", "resid_in_1@all=0"];
    assert_ne!(keep(&changed), keep(&[]));
    // A store keeps the same.
    let base = format!("{}/", path(&folder));
    succeeds(&[&asked[..], &["--ignore-end", "-o", &base]].concat());
    let shown = json(&["runs", "-b", &base, "load", "-1", "input_ids", "--format", "json"]);
    assert_eq!(shown["shape"][1], kept.len() - 1);
}
