//! Prompts and masks that no model can run.

use easyroutine::request::Request;
use easyroutine::{Batch, ErrorKind};

use super::refused;
use crate::common::{cases, tiny};

#[test]
fn an_id_beyond_the_vocabulary_is_refused_with_its_place() {
    for case in cases("tiny") {
        let model = tiny(&case);
        for id in [320, 321, u32::MAX] {
            let batch = Batch::new(&[vec![1, 2], vec![3, 4, id]]).unwrap();
            let words = ["row 1", &id.to_string(), "at 2", "vocabulary of 320"];
            refused(model.forward(&batch, &mut ()), ErrorKind::Input, &words);
        }
        assert!(model.forward(&Batch::new(&[[319]]).unwrap(), &mut ()).is_ok(), "{case}");
    }
}

#[test]
fn a_row_longer_than_the_context_is_refused_with_the_limit() {
    let mut limited = 0;
    for case in cases("tiny") {
        let model = tiny(&case);
        let context = model.arch().context;
        if context > 100_000 {
            continue;
        }
        limited += 1;
        let most = Batch::new(&[vec![1; context]]).unwrap();
        let mut taps = crate::common::taps::capturing(&[vec![1; context]], ["logits".parse().unwrap()]);
        assert!(model.forward(&most, &mut taps).is_ok(), "{case}");
        let more = Batch::new(&[vec![1], vec![1; context + 1]]).unwrap();
        let words =
            ["row 1", &format!("{} tokens", context + 1), &format!("{context} at most"), "--truncate"];
        refused(model.forward(&more, &mut ()), ErrorKind::Input, &words);
    }
    assert!(limited > 10);
}

#[test]
fn an_empty_prompt_is_refused() {
    refused(Batch::new::<[u32; 0]>(&[]), ErrorKind::Input, &["no prompt"]);
    refused(Batch::new(&[vec![1], vec![]]), ErrorKind::Input, &["row 1 is empty"]);
    refused(Batch::from_padded(&[], &[]), ErrorKind::Input, &["no prompt"]);
}

#[test]
fn a_mask_must_be_one_run_of_ones_in_every_row() {
    let ids = vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
    let masked = |mask: &[u8]| Batch::from_padded(&ids, &[vec![1; 4], mask.to_vec()]);
    for (mask, rows) in [
        (&[1, 1, 1, 1][..], &[5, 6, 7, 8][..]),
        (&[0, 0, 1, 1], &[7, 8]),
        (&[1, 0, 0, 0], &[5]),
        (&[0, 1, 1, 0], &[6, 7]),
    ] {
        assert_eq!(masked(mask).unwrap().row(1), rows);
    }
    refused(masked(&[1, 0, 1, 1]), ErrorKind::Input, &["row 1", "a hole at 1"]);
    refused(masked(&[0, 1, 1, 0][..3]), ErrorKind::Input, &["row 1", "4 token ids but 3 values"]);
    refused(masked(&[0, 1, 0, 1]), ErrorKind::Input, &["row 1", "a hole at 2"]);
    refused(masked(&[0, 0, 0, 0]), ErrorKind::Input, &["row 1 is empty"]);
    refused(masked(&[1, 2, 1, 1]), ErrorKind::Input, &["row 1", "is 2 at 1", "only 0 and 1"]);
    refused(masked(&[1, 1, 1, 255]), ErrorKind::Input, &["is 255 at 3"]);
    refused(
        Batch::from_padded(&ids, &[vec![1; 4]]),
        ErrorKind::Input,
        &["2 rows", "1 rows of attention mask"],
    );
}

#[test]
fn an_activation_that_the_model_lacks_is_refused_before_the_run() {
    for (case, key, words) in [
        ("llama", "resid_out_3", &["layer", "3 layers"][..]),
        ("llama", "pattern_L0H4", &["head", "4 heads"]),
        ("gptj", "resid_mid_0", &["resid_mid_0", "parallel"]),
        ("gptj", "resid_mid_*", &["parallel"]),
        ("mixtral", "mlp_hidden_1", &["mlp_hidden_1", "experts"]),
        ("opt_postnorm", "last_layernorm", &["no final norm"]),
    ] {
        let request = Request::parse(key, "all").unwrap();
        refused(request.points(tiny(case).arch()), ErrorKind::Input, words);
    }
    for key in ["residout_1", "resid_out_x", "", "logits_2"] {
        assert!(Request::parse(key, "all").is_err(), "{key:?} is taken");
    }
}
