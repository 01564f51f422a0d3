//! Metrics in words.

use easyroutine::patching::Metric;

/// What a metric measures, with its unit. `text` shows a token; a KL divergence goes from `reference` to `run`.
pub fn metric_words(metric: Metric, text: &dyn Fn(u32) -> String, [reference, run]: [&str; 2]) -> String {
    match metric {
        Metric::LogitDiff { answer, against } => {
            format!("logit of {} minus logit of {}", text(answer), text(against))
        }
        Metric::NormalisedLogitDiff { answer, against } => format!(
            "logit of {} minus logit of {}, scaled to 0 for the target and 1 for the base",
            text(answer),
            text(against)
        ),
        Metric::Logit { token } => format!("logit of {}", text(token)),
        Metric::LogProbability { token } => format!("log-probability of {}, nats", text(token)),
        Metric::Probability { token } => format!("probability of {}", text(token)),
        Metric::CrossEntropy => "cross-entropy of each next token, summed, nats".to_owned(),
        Metric::Kl => format!("KL({reference} ‖ {run}), nats"),
        Metric::Rank { token } => format!("rank of {}, from 1", text(token)),
    }
}
