//! The lens of a prompt.

use easyroutine::lens::{Reading, Survey};
use easyroutine_view::lens::{
    Candidate, FinalTop, LayerPosition, LayerRow, LensReport, LensSettings, Schema,
};

use super::Subject;

/// What every layer would predict, from a survey with these settings.
pub fn lens(subject: &Subject<'_>, settings: LensSettings, survey: &Survey) -> LensReport {
    let row = |row: &easyroutine::lens::SurveyRow| LayerRow {
        layer: row.layer,
        name: row.name.clone(),
        positions: survey.positions.iter().zip(&row.readings).map(|(p, r)| cell(subject, *p, r)).collect(),
    };
    let top =
        |(position, id): (&usize, &u32)| FinalTop { position: *position, id: *id, text: subject.text(*id) };
    LensReport {
        schema: Schema,
        model: subject.card(),
        settings,
        tokens: subject.tokens(),
        layers: survey.rows.iter().map(row).collect(),
        final_top: survey.positions.iter().zip(&survey.final_top).map(top).collect(),
    }
}

fn cell(subject: &Subject<'_>, position: usize, reading: &Reading) -> LayerPosition {
    let candidate =
        |(id, logprob): &(u32, f64)| Candidate { id: *id, text: subject.text(*id), logprob: *logprob };
    LayerPosition {
        position,
        top: reading.top.iter().map(candidate).collect(),
        entropy: reading.entropy,
        kl_to_final: reading.kl_to_final,
        rank_of_next: reading.target.map(|t| t.rank).filter(|rank| *rank > 0),
        logprob_of_final_top: reading.logprob_of_final_top,
        tracked: reading.tracked.first().copied(),
    }
}
