//! `serve`: the page sends command lines, and gets what the commands write.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::{easyroutine, fails, fixtures, json as printed, succeeds, tiny};

const PROMPT: &str = "the cat sat";

/// A server that ends with the test.
struct Served {
    process: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    fn start(args: &[&str]) -> Served {
        let program = easyroutine(&[]);
        let mut command = Command::new(program.get_program());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("serve").args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Served { process, address: address.trim().to_owned() }
    }

    fn of_tiny(case: &str) -> Served {
        Served::start(&["-m", &tiny(case)])
    }

    /// The last event of an answer, and all before it.
    fn ask(&self, question: &Value) -> (Value, Vec<Value>) {
        let (host, path) = self.address.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let body = question.to_string();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "POST /{path}ask HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{answer}");
        let mut events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (events.pop().unwrap(), events)
    }

    fn run(&self, words: &[&str], format: &str) -> Value {
        self.ask(&json!({"ask": "run", "words": words, "format": format})).0
    }
}

#[test]
fn what_the_page_gets_is_what_the_command_prints() {
    let served = Served::of_tiny("llama");
    let model = tiny("llama");
    let commands: [&[&str]; 9] = [
        &["lens", "-k", "3"],
        &["attn", "--layer", "1"],
        &["run", "-k", "4", "--intervene", "attn_out_1@all=0"],
        &["run", "--generate", "5"],
        &["dla", "--by", "head", "--intervene", "head_out_L1H2@last=0"],
        &["ablate", "--along", "positions"],
        &["patch", "--base", "the dog sat"],
        &["attribute", "--method", "integrated", "--steps", "4"],
        &["tokens"],
    ];
    for words in commands {
        let asked = [words, &["--", PROMPT]].concat();
        let answer = served.run(&asked, "json");
        let typed = [&words[..1], &["-m", &model, "--format", "json"], &words[1..], &["--", PROMPT]].concat();
        assert_eq!(answer["data"], printed(&typed), "{words:?}");
        // The command that it names, typed into a shell, is the same command.
        let line = answer["command"].as_str().unwrap();
        let program = easyroutine(&[]).get_program().to_str().unwrap().to_owned();
        let line = line.replacen("easyroutine", &format!("'{program}' --format csv"), 1);
        let out = Command::new("sh").args(["-c", &line]).env("HF_HOME", "/nonexistent").output().unwrap();
        let typed = [&words[..1], &["-m", &model, "--format", "csv"], &words[1..], &["--", PROMPT]].concat();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), succeeds(&typed), "{line}");
        if !words.contains(&"--generate") {
            let file = served.run(&asked, "csv");
            assert_eq!(file["text"], succeeds(&typed), "{words:?}");
        }
    }
    let png = served.run(&["lens", "--", PROMPT], "png");
    assert!(png["base64"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{png}");
}

#[test]
fn what_a_command_says_comes_before_its_result() {
    let served = Served::of_tiny("llama");
    let (done, events) = served.ask(&json!({"ask": "run", "words": ["ablate", "--", PROMPT]}));
    assert_eq!(done["event"], "result");
    let told = |kind: &str| events.iter().filter(|event| event["event"] == kind).cloned().collect::<Vec<_>>();
    let progress = told("progress");
    assert_eq!(progress.last().unwrap()["done"], 12, "{events:?}");
    assert_eq!(progress.last().unwrap()["of"], 12);
    let (_, events) =
        served.ask(&json!({"ask": "run", "words": ["dla", "--by", "part", "--answer", "a", "--", PROMPT]}));
    assert!(
        events.iter().any(|e| e["kind"] == "sum" && e["text"].as_str().unwrap().contains("parts and bias"))
    );
    let (done, events) =
        served.ask(&json!({"ask": "run", "words": ["run", "--generate", "6", "--", PROMPT]}));
    let pieces: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(done["data"]["text"], pieces);
}

#[test]
fn the_same_in_python_names_what_was_asked() {
    let served = Served::of_tiny("llama");
    let python = |words: &[&str]| {
        let answer = served.run(words, "page");
        answer["python"].as_str().map(|text| text.lines().last().unwrap().to_owned())
    };
    assert_eq!(
        python(&["lens", "-k", "3", "--track", " a", "--intervene", "attn_out_1@-1*0.5", "--", "it's\n\"é\""]),
        Some(
            r#"result = model.lens("it's\n\"é\"", k=3, track=" a", interventions=[Intervention("full", "attn_out_1", [-1], multiplication_value=0.5)])"#
                .to_owned()
        )
    );
    assert_eq!(
        python(&["dla", "--by", "head", "--answer", "id:7", "--", PROMPT]),
        Some(r#"result = model.direct_attribution("the cat sat", 7, by="head", target_token_positions=["last"])"#.to_owned())
    );
    // Tokens chosen by the command itself are named, since Python chooses none.
    let metric =
        served.run(&["patch", "--base", "the dog sat", "--", PROMPT], "json")["data"]["metric"].clone();
    assert_eq!(
        python(&["patch", "--base", "the dog sat", "--", PROMPT]),
        Some(format!(
            r#"result = model.sweep("the cat sat", by="patch", base="the dog sat", along="positions", metric="logit_diff", answer={}, against={})"#,
            metric["answer"], metric["against"]
        ))
    );
    let mixture = Served::of_tiny("qwen2_moe");
    let asked = ["ablate", "--along", "experts", "--experts", "1:3", "--metric", "kl", "--", PROMPT];
    let written = mixture.run(&asked, "json")["python"].as_str().unwrap().to_owned();
    assert!(
        written.contains(r#"sweep("the cat sat", by="zero", along="experts", experts=[1,2], metric="kl")"#),
        "{written}"
    );
    // A flag without a translation is not dropped.
    assert_eq!(python(&["lens", "--norm", "cached", "--", PROMPT]), None);
    assert_eq!(python(&["lens", "--bos", "yes", "--", PROMPT]), None);
    // A change that in Python needs the user's own tensor is not guessed.
    assert_eq!(python(&["lens", "--intervene", "attn_out_1@last=3", "--", PROMPT]), None);
}

#[test]
fn a_page_looks_and_writes_nothing() {
    let served = Served::of_tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.json");
    let file = file.to_str().unwrap();
    let refused: [&[&str]; 14] = [
        &[],
        &["lens", "-o", file, "--", PROMPT],
        &["lens", "--file", file],
        &["lens", "--", "-"],
        &["lens", "--help"],
        &["extract", "-a", "resid_out_*", "-o", file, "--", PROMPT],
        &["model", "export", "smollm2", file],
        &["runs", "--base", file, "rm", "--yes", "x"],
        &["runs", "--base", file, "gc"],
        &["tune", "--file", file, "-o", file],
        &["serve"],
        &["edges", "--pairs", file, "--state", file],
        &["lens", "--model", "other", "--", PROMPT],
        &["lens", "--dtype", "bf16", "--", PROMPT],
    ];
    for words in refused {
        let answer = served.run(words, "page");
        assert_eq!(answer["event"], "error", "{words:?}: {answer}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    for question in [
        json!({}),
        json!({"ask": "shutdown"}),
        json!({"ask": "run", "words": "lens"}),
        json!({"ask": "run", "words": [1]}),
        json!({"ask": "run", "words": vec!["x"; 500]}),
        json!({"ask": "run", "words": ["lens", "--", PROMPT], "format": "exe"}),
    ] {
        assert_eq!(served.ask(&question).0["event"], "error", "{question}");
    }
    // An error in a question reads as on the command line.
    let answer = served.run(&["lens", "--intervene", "resid_outt_1@all=0", "--", PROMPT], "page");
    assert_eq!(
        answer["message"],
        "`resid_outt_1@all=0`: no activation `resid_outt_1`; did you mean `resid_out_1`?"
    );
    assert_eq!(served.run(&["lens", "--", PROMPT], "page")["event"], "result", "the server goes on");
}

#[test]
fn a_model_that_does_not_load_is_said_and_another_can_be_loaded() {
    let served = Served::start(&["-m", "/nonexistent/model"]);
    let state = served.ask(&json!({"ask": "state"})).0;
    assert!(state["data"]["model"].is_null());
    assert!(state["data"]["problem"]["message"].as_str().unwrap().contains("/nonexistent/model"), "{state}");
    let answer = served.run(&["lens", "--", PROMPT], "page");
    assert_eq!(answer["event"], "error");
    let cost = served.run(&["model", "info", "--", &tiny("gpt2")], "page");
    assert!(cost["data"]["weights_f32_bytes"].as_u64().unwrap() > 0);
    let state = served.ask(&json!({"ask": "load", "model": tiny("gpt2")})).0;
    assert_eq!(state["data"]["model"]["name"], "gpt2", "{state}");
    assert!(state["data"]["problem"].is_null());
    assert_eq!(served.run(&["lens", "--", PROMPT], "page")["event"], "result");
    // Whoever expects the model before it is refused, and is not given the numbers of this one.
    let expecting = |model: &str| json!({"ask": "run", "words": ["lens", "--", PROMPT], "model": model, "format": "json"});
    assert_eq!(served.ask(&expecting(&tiny("gpt2"))).0["event"], "result");
    let answer = served.ask(&expecting(&tiny("llama"))).0;
    assert_eq!((&answer["event"], &answer["swapped"]), (&json!("error"), &json!(true)), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("is no longer loaded"), "{answer}");
    // No request leaves the machine.
    let answer = served.ask(&json!({"ask": "load", "model": "org/not-in-the-cache"})).0;
    assert_eq!((&answer["event"], &answer["status"]), (&json!("error"), &json!(3)), "{answer}");
}

#[test]
fn saved_runs_are_those_of_the_base() {
    let base = fixtures().join("store/v1");
    let base = base.to_str().unwrap();
    let served = Served::start(&["--base", base]);
    let answer = served.run(&["runs", "ls"], "json");
    let typed = printed(&["runs", "--base", base, "ls", "--format", "json"]);
    assert_eq!(answer["data"], typed);
    // A list on a page has as many, with no more of each than it shows.
    let listed = served.run(&["runs", "ls"], "page")["data"].clone();
    let paths = |data: &Value| {
        data["runs"].as_array().unwrap().iter().map(|run| run["path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&listed), paths(&typed));
    assert_eq!(listed["runs"][0]["metadata"]["save_time"], typed["runs"][0]["metadata"]["save_time"]);
    assert!(listed["runs"][0]["metadata"]["extraction_config"].is_null());
    assert!(answer["python"].as_str().unwrap().contains("ActivationLoader("), "{answer}");
    let answer = served.run(&["runs", "load", "--rows", "0:1", "--", "-1", "resid_out_0"], "page");
    assert!(!answer["data"]["values"].as_array().unwrap().is_empty());
}

#[test]
fn a_port_that_is_taken_and_a_token_that_is_none_are_named() {
    let served = Served::of_tiny("gpt2");
    let port = served.address.split(':').nth(2).unwrap().split('/').next().unwrap();
    let error = fails(1, &["serve", "--port", port]);
    assert!(error.contains(&format!("port {port} is taken by another program")), "{error}");
    for token in ["short", "with/slash-with/slash-with/slash"] {
        let error = fails(2, &["serve", "--token", token]);
        assert!(error.contains("--token: a token has 22 to 200"), "{error}");
        assert!(!error.contains(token));
    }
    fails(2, &["serve", "--format", "json"]);
    fails(2, &["serve", "-o", "x.html"]);
    fails(1, &["serve", "--framed-by", "localhost"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_at_once() {
    use std::time::{Duration, Instant};
    let mut served = Served::of_tiny("gpt2");
    let begin = Instant::now();
    let interrupt = Command::new("kill").args(["-INT", &served.process.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    // Not `wait`: a server that does not end would block the tests forever.
    while served.process.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(5), "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
