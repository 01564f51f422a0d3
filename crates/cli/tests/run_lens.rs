//! `runs lens`: saved streams through the unembedding.

use crate::common::{easyroutine, fails, json, path, succeeds, tiny};

const PROMPT: &str = "the cat sat";

#[test]
fn a_saved_stream_says_what_the_lens_of_its_prompt_says() {
    let folder = tempfile::tempdir().unwrap();
    let (model, base) = (tiny("llama"), path(&folder).to_owned() + "/runs/");
    easyroutine(&[
        "extract",
        PROMPT,
        "-m",
        &model,
        "-a",
        "resid_out_*,pattern_L0H0",
        "--positions",
        "all",
        "-o",
        &base,
    ])
    .assert()
    .success();
    let report = json(&["lens", PROMPT, "-m", &model, "-k", "4", "--format", "json"]);
    for layer in 0..3 {
        let key = format!("resid_out_{layer}");
        let told =
            json(&["runs", "-b", &base, "lens", "-1", &key, "-m", &model, "-k", "4", "--format", "json"]);
        let cells =
            report["layers"].as_array().unwrap().iter().find(|row| row["name"] == key.as_str()).unwrap();
        let cells = cells["positions"].as_array().unwrap();
        let rows = told["rows"].as_array().unwrap();
        assert_eq!(rows.len(), cells.len());
        for (position, (row, cell)) in rows.iter().zip(cells).enumerate() {
            assert_eq!(row["place"], format!("0,{position}"));
            for (found, expected) in
                row["top"].as_array().unwrap().iter().zip(cell["top"].as_array().unwrap())
            {
                assert_eq!((&found["id"], &found["text"]), (&expected["id"], &expected["text"]));
                let difference =
                    found["probability"].as_f64().unwrap() - expected["logprob"].as_f64().unwrap().exp();
                assert!(difference.abs() < 1e-6, "{found} {expected}");
            }
        }
    }
    let table = succeeds(&[
        "runs",
        "-b",
        &base,
        "lens",
        "-1",
        "resid_out_1",
        "-m",
        &model,
        "--rows",
        "0:1",
        "-k",
        "1",
    ]);
    assert!(table.starts_with("row\trank\tid\ttoken\tprobability\n0,0\t1\t"), "{table}");
    // Numbers that are none are refused with their place.
    let wrong = path(&folder).to_owned() + "/wrong/";
    let large = ["--intervene", "resid_out_0@last*1e30", "--intervene", "resid_out_1@last*1e30"];
    let extract = ["extract", PROMPT, "-m", &model, "-a", "resid_out_1", "--positions", "all", "-o", &wrong];
    easyroutine(&[&extract[..], &large].concat()).assert().success();
    let said = fails(1, &["runs", "-b", &wrong, "lens", "-1", "resid_out_1", "-m", &model]);
    let last = report["tokens"].as_array().unwrap().len() - 1;
    let place = format!("resid_out_1 0,{last} has no probabilities: its number");
    assert!(said.contains(&place) && said.contains("inf"), "{said}");
    // A tensor that is not a vector of the stream, and another model's run, are reported.
    let wrong = fails(2, &["runs", "-b", &base, "lens", "-1", "pattern_L0H0", "-m", &model]);
    assert!(wrong.contains("reads F32 vectors of 48"), "{wrong}");
    let wrong = fails(2, &["runs", "-b", &base, "lens", "-1", "resid_outt_1", "-m", &model]);
    assert!(wrong.contains("did you mean `resid_out_1`"), "{wrong}");
    let other = easyroutine(&["runs", "-b", &base, "lens", "-1", "resid_out_1", "-m", &tiny("llama3")]);
    let output = { other }.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("by another model than llama3") || said.contains("F32 vectors of"), "{said}");
}
