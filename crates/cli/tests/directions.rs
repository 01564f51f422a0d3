//! `direction` and `probe`, against scikit-learn, repeng's formulas and the references of the fixtures.

use crate::common::{fails, fixtures, json, succeeds, tiny};
use easyroutine_files::{Container, ShardedSafeTensors};
use serde_json::Value;

fn file(name: &str) -> String {
    fixtures().join("directions").join(name).to_str().unwrap().to_owned()
}

fn values(path: &str, name: &str) -> Vec<f32> {
    Container::open(path).unwrap().tensor(name).unwrap_or_else(|| panic!("no {name}")).read_all().unwrap()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-4 * most, "{what}: {a} {b}");
    }
}

/// Prompts of both sides of the pairs, in two files.
fn two_files(folder: &tempfile::TempDir) -> [String; 2] {
    let text = std::fs::read_to_string(file("steering/pairs.jsonl")).unwrap();
    ["positive", "negative"].map(|side| {
        let path = folder.path().join(format!("{side}.jsonl"));
        let ids = text.lines().map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            format!("{}\n", serde_json::json!({ "ids": row[format!("{side}_ids")] }))
        });
        std::fs::write(&path, ids.collect::<String>()).unwrap();
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn steering_vectors_are_those_of_the_references_however_their_prompts_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, pairs, reference) =
        (tiny("gpt2"), file("steering/pairs.jsonl"), file("steering/reference.safetensors"));
    let [positive, negative] = two_files(&folder);
    let in_one = ["--file", &pairs, "--pair", "positive_ids,negative_ids"];
    let in_two = ["--positive", &positive, "--negative", &negative, "--field", "ids"];
    for (method, name) in [("caa", "caa"), ("pca-diff", "pca_diff"), ("pca-center", "pca_center")] {
        for (given, out) in [(&in_one[..], at("one.safetensors")), (&in_two[..], at("two.safetensors"))] {
            let base = ["direction", "-m", &model, "--method", method, "--format", "json", "-o", &out];
            let told = json(&[&base[..], given].concat());
            assert_eq!(told["pairs"], 21);
            assert_eq!(told["layers"].as_array().unwrap().len(), 3, "{told}");
            for layer in 0..3 {
                let found = values(&out, &format!("direction_{layer}"));
                let what = format!("{name}.{layer}");
                assert_near(&found, &values(&reference, &what), &what);
            }
            let expect: Value =
                serde_json::from_slice(&std::fs::read(file("steering/expect.json")).unwrap()).unwrap();
            let share = &expect["signs"][format!("{name}.1")]["pairs_where_positive_is_larger"];
            if let Some(share) = share.as_f64() {
                assert!((told["layers"][1]["accuracy_fitted"].as_f64().unwrap() - share).abs() < 1e-9);
            }
        }
        let [one, two] = ["one.safetensors", "two.safetensors"].map(|name| std::fs::read(at(name)).unwrap());
        let numbers = |bytes: &[u8]| bytes[bytes.len() - 3 * 48 * 4..].to_vec();
        assert!(numbers(&one) == numbers(&two), "{method}");
    }
}

#[test]
fn a_vector_steers_out_of_either_file_as_the_reference_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, pairs) = (tiny("gpt2"), file("steering/pairs.jsonl"));
    let base = ["direction", "-m", &model, "--file", &pairs, "--pair", "positive_ids,negative_ids"];
    succeeds(&[&base[..], &["-a", "resid_out_1:", "-o", &at("v.safetensors"), "-o", &at("v.gguf")]].concat());
    let control_vector = Container::open(at("v.gguf")).unwrap();
    assert_eq!(control_vector.names(), ["direction.1", "direction.2"]);
    let steer = ["run", "the capital of France is", "-m", &model, "--bos", "no", "--generate", "8"];
    for vector in ["v.safetensors::direction_1", "v.gguf::direction.1"] {
        let change = format!("resid_out_1@all+-4*{}", at(vector));
        let said = succeeds(&[&steer[..], &["--intervene", &change]].concat());
        assert_eq!(said.trim_end(), "8 no no no no no no no", "{vector}");
    }
    // Refused before a prompt is run, so that a prompt which cannot be is not yet seen.
    let long = vec![1; 5000];
    let line = serde_json::json!({"positive_ids": long, "negative_ids": [1, 2]});
    std::fs::write(at("long.jsonl"), format!("{line}\n")).unwrap();
    let long =
        ["direction", "-m", &model, "--file", &at("long.jsonl"), "--pair", "positive_ids,negative_ids"];
    let first = fails(2, &[&long[..], &["-o", &at("w.gguf")]].concat());
    assert!(first.contains("block 0") && first.contains("resid_out_1:"), "{first}");
    let other = fails(2, &[&base[..], &["-a", "mlp_out_1:", "-o", &at("w.gguf")]].concat());
    assert!(other.contains("mlp_out"), "{other}");
    // A model of the same width that they were not made with.
    for (vector, model, says) in [
        ("v.safetensors::direction_1", tiny("gpt2"), None),
        ("v.gguf::direction.1", tiny("gpt2"), None),
        ("v.safetensors::direction_1", tiny("llama"), Some("it says `gpt2`, and this is `llama`")),
        ("v.gguf::direction.1", tiny("llama"), Some("it says `gpt2`, and this is `llama`")),
    ] {
        let change = format!("resid_out_1@all+{}", at(vector));
        let run = ["run", "the cat", "-m", &model, "--intervene", &change];
        let said = crate::common::easyroutine(&run).assert().success().get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        match says {
            Some(says) => {
                assert!(said.contains("was made with another model") && said.contains(says), "{said}")
            }
            None => assert!(!said.contains("another model"), "{said}"),
        }
    }
}

#[test]
fn probes_are_those_of_scikit_learn_fitted_from_prompts_and_from_a_saved_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, prompts) = (tiny("gpt2"), file("probes/prompts.jsonl"));
    let reference = file("probes/reference.safetensors");
    let expect: Value = serde_json::from_slice(&std::fs::read(file("probes/expect.json")).unwrap()).unwrap();
    let store = format!("{}/", at("runs"));
    let extract = ["extract", "--file", &prompts, "--field", "ids", "-m", &model, "-a", "resid_out_*"];
    let saving = ["--positions", "last", "--keep-fields", "label,split", "--run", "probes", "-o", &store];
    succeeds(&[&extract[..], &saving].concat());
    let of_prompts = ["--file", &prompts, "--field", "ids", "-m", &model];
    let of_run = ["--run", "probes", "-b", &store];
    for (name, more) in [
        ("logistic", &[][..]),
        ("logistic_weak", &["--c", "0.01"]),
        ("logistic_standardised", &["--c", "0.1", "--standardise"]),
        ("mean_difference", &["--method", "mean-difference"]),
    ] {
        for (given, out) in [(&of_prompts[..], at("a.safetensors")), (&of_run[..], at("b.safetensors"))] {
            let base = ["probe", "fit", "--split", "split", "--format", "json", "-o", &out];
            let told = json(&[&base[..], given, more].concat());
            assert_eq!((&told["rows"], &told["held_out"]), (&100.into(), &30.into()));
            for layer in 0..3 {
                let what = format!("{name}.{layer}");
                let expected = &expect[&what];
                let found = &told["layers"][layer];
                for (ours, theirs) in
                    [("accuracy_fitted", "accuracy_train"), ("accuracy_held_out", "accuracy_test")]
                {
                    let difference = found[ours].as_f64().unwrap() - expected[theirs].as_f64().unwrap();
                    assert!(difference.abs() < 1e-9, "{what}: {found} {expected}");
                }
                let is_plain = name != "logistic_standardised" && name != "mean_difference";
                if is_plain {
                    let found = values(&out, &format!("direction_{layer}"));
                    assert_near(&found, &values(&reference, &format!("{what}.weight")), &what);
                }
            }
        }
    }
    // The fitted probe is applied: accuracy over all rows combines that of both parts.
    let base = ["probe", "apply", &at("a.safetensors"), "--format", "json", "--label", "label"];
    let (a, b) = (json(&[&base[..], &of_prompts].concat()), json(&[&base[..], &of_run].concat()));
    assert_eq!(a["layers"][1]["scores"], b["layers"][1]["scores"]);
    let expected = (0.7 * expect["mean_difference.1"]["accuracy_train"].as_f64().unwrap())
        + 0.3 * expect["mean_difference.1"]["accuracy_test"].as_f64().unwrap();
    assert!((a["layers"][1]["accuracy"].as_f64().unwrap() - expected).abs() < 1e-9, "{a}");
    let told = succeeds(&["probe", "apply", &at("a.safetensors"), "--run", "-1", "-b", &store]);
    assert!(told.starts_with("row\tactivation\tscore\tpositive\n0\tresid_out_0\t"), "{told}");
    // A picture, and the table elsewhere.
    let drawn = ["probe", "fit", "--run", "probes", "-b", &store, "-o", &at("p.svg"), "-o", &at("p.tsv")];
    succeeds(&drawn);
    let picture = std::fs::read_to_string(at("p.svg")).unwrap();
    assert!(picture.contains("resid_out_2") && picture.contains("held out"), "{picture}");
    let table = std::fs::read_to_string(at("p.tsv")).unwrap();
    assert!(table.starts_with("activation\taccuracy_fitted\taccuracy_held_out\tchance\n"), "{table}");
}

#[test]
fn a_probe_is_applied_where_it_was_fitted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let rows: String = ["the cat sat", "a dog ran", "the sun rose", "a boat sank", "the tree", "a house"]
        .iter()
        .enumerate()
        .map(|(n, text)| format!("{{\"text\": \"{text}\", \"label\": {}}}\n", n % 2))
        .collect();
    std::fs::write(at("l.jsonl"), rows).unwrap();
    let of = |model: &str, more: &[&str]| {
        let file = at("l.jsonl");
        let words = [&["-m", model, "--file", &file], more].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |words: &[&str], of: &[String]| {
        let words = [words, &of.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let output = crate::common::easyroutine(&words).assert().success().get_output().clone();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (llama, mistral) = (tiny("llama"), tiny("mistral"));
    let probe = at("p.safetensors");
    run(&["probe", "fit", "-o", &probe], &of(&llama, &["--position", "-2"]));
    let apply = ["probe", "apply", &*probe];
    let (own, quiet) = run(&apply, &of(&llama, &[]));
    assert!(!quiet.contains("warning"), "{quiet}");
    assert_eq!(own, run(&apply, &of(&llama, &["--position", "-2"])).0);
    let (last, said) = run(&apply, &of(&llama, &["--position", "last"]));
    assert!(last != own && said.contains("fitted on another position: `-2`, and this is `last`"), "{said}");
    let (_, said) = run(&apply, &of(&mistral, &[]));
    assert!(said.contains("fitted on another model: `llama`, and this is `mistral`"), "{said}");
}

#[test]
fn a_held_out_part_of_one_class_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("l.jsonl").to_str().unwrap().to_owned();
    let line = |label: usize, split: &str| {
        format!("{{\"text\": \"the cat {label}\", \"label\": {label}, \"split\": \"{split}\"}}\n")
    };
    let fitted = [0, 1, 0, 1].map(|label| line(label, "train")).concat();
    for (held_out, is_told) in [([1, 1], true), ([0, 1], false)] {
        std::fs::write(&rows, fitted.clone() + &held_out.map(|label| line(label, "test")).concat()).unwrap();
        let fit = ["probe", "fit", "-m", &tiny("llama"), "--file", &rows, "--split", "split"];
        let said = crate::common::easyroutine(&fit).assert().success().get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(said.contains("all 2 held-out rows are positive"), is_told, "{said}");
    }
}

#[test]
fn what_no_direction_can_be_made_of_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        at(name)
    };
    let model = tiny("gpt2");
    let labelled = write("l.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 1}\n");
    let three = write("t.csv", "text,label\na,1\nb,2\nc,3\n");
    let (few, many) = (write("few.txt", "the cat\n"), write("many.txt", "the dog\na cat\n"));
    let fit = ["probe", "fit", "-m", &model, "--file"];
    let two = ["direction", "-m", &model, "--positive", &few, "--negative", &many];
    let pairs = file("steering/pairs.jsonl");
    let other = write("other.safetensors", "");
    ShardedSafeTensors::open(&other).unwrap_err();
    for (args, words) in [
        ([&fit[..], &[&labelled]].concat(), "one value; two are expected"),
        ([&fit[..], &[&three]].concat(), "more than two values"),
        ([&fit[..], &[&labelled, "--label", "kind"]].concat(), "kind"),
        ([&fit[..], &[&labelled, "--split", "label"]].concat(), "two are expected"),
        ([&fit[..], &[&labelled, "-a", "resid_out_*,mlp_out_*"]].concat(), "one value"),
        ([&fit[..], &[&labelled, "--position", "all"]].concat(), "one position of each prompt"),
        ([&fit[..], &[&labelled, "--method", "mean-difference", "--c", "2"]].concat(), "--method logistic"),
        (two.to_vec(), "1 positive and 2 negative prompts are not pairs"),
        (["direction", "-m", &model, "--file", &pairs, "--pair", "positive"].to_vec(), "names one field"),
        (
            ["direction", "-m", &model, "--file", &pairs, "-a", "pattern_L0H1"].to_vec(),
            "one site that has a vector a layer",
        ),
        (["direction", "-m", &model, "--file", &pairs, "-o", "x.pt"].to_vec(), "x.pt"),
        (["probe", "fit", "--run", "-1", "-b", &at("nowhere")].to_vec(), "nowhere"),
        (["probe", "apply", &other, "-m", &model, "--file", &labelled].to_vec(), "other.safetensors"),
        (["direction", "-m", &model].to_vec(), "--file"),
        (["probe", "fit", "--run", "-1", "--position", "0"].to_vec(), "--position"),
        (["probe", "fit", "--run", "-1", "--limit", "5"].to_vec(), "--limit"),
        (["probe", "fit", "--run", "-1", "--bos", "yes"].to_vec(), "--bos"),
    ] {
        let output = crate::common::easyroutine(&args).assert().failure().get_output().stderr.clone();
        let message = String::from_utf8(output).unwrap();
        assert!(message.contains(words), "{args:?}: {message}");
    }
}
