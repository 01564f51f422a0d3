//! Every tensor that a checkpoint must hold, derived from [`Arch`] and [`Names`] alone, to check the families' names
//! against.

use std::collections::BTreeMap;

use crate::arch::*;
use crate::names::*;

/// Names (with the base model's prefix) and shapes.
pub(crate) fn expected(arch: &Arch, names: &Names) -> BTreeMap<String, Vec<usize>> {
    let mut all = Tensors { found: BTreeMap::new() };
    let base = names.prefix;
    let (width, d) = (arch.embed.width, arch.d_model);
    all.add(format!("{base}{}.weight", names.embed), &[arch.vocabulary, width]);
    if let (Some(table), Some(name)) = (arch.embed.positions, names.positions) {
        all.add(format!("{base}{name}.weight"), &[table.rows, d]);
    }
    all.norm(base, names.embed_norm, arch.embed.norm, d);
    if width != d {
        all.add(format!("{base}{}.weight", names.project_in.expect("a name")), &[d, width]);
        all.add(format!("{base}{}.weight", names.project_out.expect("a name")), &[width, d]);
    }
    if let (Some(inputs), Some(tables)) = (arch.per_layer, names.per_layer) {
        let all_layers = arch.layers.len() * inputs.width;
        all.add(format!("{base}{}.weight", tables.table), &[inputs.rows, all_layers]);
        all.add(format!("{base}{}.weight", tables.project), &[all_layers, d]);
        all.norm(base, Some(tables.norm), Some(inputs.norm), inputs.width);
    }
    for l in 0..arch.layers.len() {
        let prefix = format!("{base}{}", names.layer.replace("{}", &l.to_string()));
        all.layer(&prefix, arch, l, names.of_layer(l));
    }
    all.norm(base, names.final_norm, arch.final_norm, d);
    if arch.unembed.matrix == UnembedMatrix::Own {
        all.add(format!("{}.weight", names.unembed), &[arch.vocabulary, width]);
    }
    if arch.unembed.bias == Bias::Stored {
        all.add(format!("{}.bias", names.unembed), &[arch.vocabulary]);
    }
    all.found
}

struct Tensors {
    found: BTreeMap<String, Vec<usize>>,
}

impl Tensors {
    fn add(&mut self, name: String, shape: &[usize]) {
        assert!(self.found.insert(name.clone(), shape.to_vec()).is_none(), "{name} twice");
    }

    fn norm(&mut self, prefix: &str, name: Option<&str>, norm: Option<Norm>, width: usize) {
        let Some(norm) = norm else {
            assert_eq!(name, None, "a name for a norm that is not there");
            return;
        };
        if !norm.kind.has_weight() {
            return;
        }
        let name = name.expect("a name for the norm");
        self.add(format!("{prefix}{name}.weight"), &[width]);
        if norm.kind.has_bias() {
            self.add(format!("{prefix}{name}.bias"), &[width]);
        }
    }

    fn linear(&mut self, prefix: &str, linear: Linear, outputs: usize, inputs: usize) {
        let shape = match linear.axes {
            Axes::OutIn => [outputs, inputs],
            Axes::InOut => [inputs, outputs],
        };
        self.add(format!("{prefix}{}.weight", linear.name), &shape);
        if linear.bias == Bias::Stored {
            self.add(format!("{prefix}{}.bias", linear.name), &[outputs]);
        }
    }

    fn head_norm(&mut self, prefix: &str, name: Option<HeadNorm>, norm: QkNorm, heads: usize, d_head: usize) {
        match (norm, name) {
            (QkNorm::None, None) => {}
            (QkNorm::PerHead(norm), Some(HeadNorm::One(name))) => {
                self.norm(prefix, Some(name), Some(norm), d_head);
            }
            (QkNorm::Whole(norm), Some(HeadNorm::One(name))) => {
                self.norm(prefix, Some(name), Some(norm), heads * d_head);
            }
            (QkNorm::PerHead(norm), None) if !norm.kind.has_weight() => {}
            (QkNorm::PerHeadOwnWeights(norm), Some(HeadNorm::One(name))) => {
                self.add(format!("{prefix}{name}.weight"), &[heads, d_head]);
                if norm.kind.has_bias() {
                    self.add(format!("{prefix}{name}.bias"), &[heads, d_head]);
                }
            }
            (QkNorm::PerHeadOwnWeights(norm), Some(HeadNorm::EachHead(name))) => {
                for head in 0..heads {
                    self.norm(prefix, Some(&name.replace("{}", &head.to_string())), Some(norm), d_head);
                }
            }
            (norm, name) => panic!("{norm:?} is stored as {name:?}"),
        }
    }

    fn layer(&mut self, prefix: &str, arch: &Arch, l: usize, names: &LayerNames) {
        let (d, layer) = (arch.d_model, &arch.layers[l]);
        let heads = arch.heads(l);
        let (q, kv) = (heads.queries(), heads.keys());
        let norms = match layer.wiring {
            Wiring::Sequential { attention, mlp } => [attention.pre, attention.post, mlp.pre, mlp.post],
            Wiring::Parallel { attention, mlp } => [Some(attention), None, mlp, None],
            Wiring::NormOnStream { attention, mlp, .. } => [Some(attention), None, Some(mlp), None],
        };
        let stored = [names.attention_norm, names.attention_post_norm, names.mlp_norm, names.mlp_post_norm];
        let has = [layer.mixes(), layer.mixes(), layer.mlp.is_some(), layer.mlp.is_some()];
        for ((norm, name), has) in norms.into_iter().zip(stored).zip(has) {
            self.norm(prefix, name.filter(|_| has), norm.filter(|_| has), d);
        }
        if let (Some(recurrence), Some(names)) = (&layer.recurrence, names.recurrence) {
            self.recurrence(prefix, d, recurrence, names);
        }
        if let Some(mlp) = layer.mlp {
            self.mlp(prefix, d, mlp, names.mlp);
        }
        let Some(attention) = &layer.attention else { return };
        match names.qkv {
            QkvNames::Split { q: query, k, v } => {
                self.linear(prefix, query, q, d);
                self.linear(prefix, k, kv, d);
                self.linear(prefix, v, kv, d);
            }
            QkvNames::SplitGated { q: query, k, v } => {
                self.linear(prefix, query, 2 * q, d);
                self.linear(prefix, k, kv, d);
                self.linear(prefix, v, kv, d);
            }
            QkvNames::Stacked(all)
            | QkvNames::ByHead(all)
            | QkvNames::ByGroup(all)
            | QkvNames::InBlocks { linear: all, .. } => self.linear(prefix, all, q + 2 * kv, d),
            QkvNames::KeysAreValues { q: query, k } => {
                self.linear(prefix, query, q, d);
                self.linear(prefix, k, kv, d);
            }
            QkvNames::Queries { q: query, .. } => self.linear(prefix, query, q, d),
            QkvNames::Latent(names) => {
                let latent = layer.latent().expect("compressed vectors");
                if let (Some(width), Some((down, norm))) = (latent.queries, names.compress_queries) {
                    self.linear(prefix, down, width, d);
                    self.norm(prefix, Some(norm), Some(latent.norm), width);
                }
                self.linear(prefix, names.queries, q, latent.queries.unwrap_or(d));
                self.linear(prefix, names.compress_kv, latent.keys_values + latent.shared, d);
                self.norm(prefix, Some(names.kv_norm), Some(latent.norm), latent.keys_values);
                let own = heads.n * (heads.d_head - latent.shared + heads.d_value);
                self.linear(prefix, names.keys_values, own, latent.keys_values);
            }
        }
        self.head_norm(prefix, names.q_norm, attention.qk_norm, heads.n, heads.d_head);
        if attention.keys_of.is_none() {
            self.head_norm(prefix, names.k_norm, attention.qk_norm, heads.n_kv, heads.d_head);
        }
        if let (Some(inputs), Some(names)) = (arch.per_layer, names.per_layer) {
            self.add(format!("{prefix}{}.weight", names.gate), &[inputs.width, d]);
            self.add(format!("{prefix}{}.weight", names.project), &[d, inputs.width]);
            self.norm(prefix, Some(names.norm), Some(inputs.norm), d);
        }
        if let (Bias::Stored, Some(name)) = (layer.leaving_scale, names.leaving_scale) {
            self.add(format!("{prefix}{name}"), &[1]);
        }
        self.linear(prefix, names.out, d, heads.mixed());
        names.sinks.into_iter().for_each(|name| self.add(format!("{prefix}{name}"), &[arch.n_heads]));
    }

    fn recurrence(&mut self, prefix: &str, d: usize, recurrence: &Recurrence, names: RecurrenceNames) {
        let width = recurrence.width();
        let sizes = [recurrence.convolved(), width, recurrence.rest()];
        match names.input {
            RecurrenceInput::Stacked(linear, _) => self.linear(prefix, linear, sizes.iter().sum(), d),
            RecurrenceInput::Split(linears) => {
                let others = linears.len().saturating_sub(2).max(1);
                for (part, linear) in linears.iter().enumerate() {
                    let rows = if part < 2 { sizes[part] } else { sizes[2] / others };
                    self.linear(prefix, *linear, rows, d);
                }
            }
            RecurrenceInput::ByKeyHead { mixed, rates } => {
                self.linear(prefix, mixed, sizes[0] + sizes[1], d);
                self.linear(prefix, rates, sizes[2], d);
            }
        }
        self.add(format!("{prefix}{}.weight", names.convolution), &[sizes[0], 1, recurrence.kernel]);
        if recurrence.bias == Bias::Stored {
            self.add(format!("{prefix}{}.bias", names.convolution), &[sizes[0]]);
        }
        let mut add = |name: &str, shape: &[usize]| self.add(format!("{prefix}{name}"), shape);
        match (recurrence.state, names.state) {
            (State::None { .. }, StateNames::None) => {}
            (State::Selective { size, rank, .. }, StateNames::Selective { select, steps, decay, skip }) => {
                add(&format!("{}.weight", select.name), &[recurrence.selected(), width]);
                add(&format!("{}.weight", steps.name), &[width, rank]);
                add(&format!("{}.bias", steps.name), &[width]);
                add(decay, &[width, size]);
                add(skip, &[width]);
            }
            (
                State::Space { heads, .. } | State::Delta { value_heads: heads, .. },
                StateNames::Heads { steps, decay, skip },
            ) => {
                [Some(steps), Some(decay), skip].into_iter().flatten().for_each(|name| add(name, &[heads]));
            }
            (State::Unit { blocks, .. }, StateNames::Unit { input, forget, decay }) => {
                let block = width / blocks;
                for gate in [input, forget] {
                    add(&format!("{gate}_weight"), &[blocks, block, block]);
                    add(&format!("{gate}_bias"), &[blocks, block]);
                }
                add(decay, &[width]);
            }
            (state, names) => panic!("{state:?} is stored as {names:?}"),
        }
        if let Some(name) = names.norm {
            let columns = match recurrence.gate.norm {
                GateNorm::Before(_, group) => group,
                _ => width,
            };
            self.add(format!("{prefix}{name}.weight"), &[columns]);
        }
        self.linear(prefix, names.out, d, width);
    }

    fn experts(&mut self, prefix: &str, d: usize, count: usize, d_mlp: usize, names: ExpertNames) {
        match names {
            ExpertNames::Each { gate, up, down } => {
                for expert in 0..count {
                    let mut one = |linear: Linear, outputs, inputs| {
                        let name = linear.name.replace("{}", &expert.to_string());
                        self.add(format!("{prefix}{name}.weight"), &[outputs, inputs]);
                    };
                    one(gate, d_mlp, d);
                    one(up, d_mlp, d);
                    one(down, d, d_mlp);
                }
            }
            ExpertNames::Ungated { up, down } => {
                for expert in 0..count {
                    let mut one = |linear: Linear, outputs, inputs| {
                        let name = linear.name.replace("{}", &expert.to_string());
                        self.add(format!("{prefix}{name}.weight"), &[outputs, inputs]);
                    };
                    one(up, d_mlp, d);
                    one(down, d, d_mlp);
                }
            }
            ExpertNames::Stacked { gate_up, down } => {
                self.add(format!("{prefix}{gate_up}"), &[count, 2 * d_mlp, d]);
                self.add(format!("{prefix}{down}"), &[count, d, d_mlp]);
            }
            ExpertNames::StackedInOut { gate_up, down } => {
                self.add(format!("{prefix}{gate_up}"), &[count, d, 2 * d_mlp]);
                self.add(format!("{prefix}{down}"), &[count, d_mlp, d]);
            }
            ExpertNames::Alternating { gate_up, down } => {
                self.add(format!("{prefix}{gate_up}"), &[count, d, 2 * d_mlp]);
                self.add(format!("{prefix}{gate_up}_bias"), &[count, 2 * d_mlp]);
                self.add(format!("{prefix}{down}"), &[count, d_mlp, d]);
                self.add(format!("{prefix}{down}_bias"), &[count, d]);
            }
        }
    }

    fn mlp(&mut self, prefix: &str, d: usize, mlp: Mlp, names: MlpNames) {
        match (mlp, names) {
            (Mlp::Plain { d_mlp, .. }, MlpNames::Plain { up, down }) => {
                self.linear(prefix, up, d_mlp, d);
                self.linear(prefix, down, d, d_mlp);
            }
            (Mlp::Xielu { d_mlp }, MlpNames::Xielu { up, down, act }) => {
                self.linear(prefix, up, d_mlp, d);
                self.linear(prefix, down, d, d_mlp);
                let shapes: [(&str, &[usize]); 4] =
                    [("alpha_p", &[1]), ("alpha_n", &[1]), ("beta", &[]), ("eps", &[])];
                for (name, shape) in shapes {
                    self.add(format!("{prefix}{act}.{name}"), shape);
                }
            }
            (Mlp::Gated { d_mlp, .. }, MlpNames::Gated { gate, up, down }) => {
                self.linear(prefix, gate, d_mlp, d);
                self.linear(prefix, up, d_mlp, d);
                self.linear(prefix, down, d, d_mlp);
            }
            (Mlp::Gated { d_mlp, .. }, MlpNames::GatedStacked { gate_up, down }) => {
                self.linear(prefix, gate_up, 2 * d_mlp, d);
                self.linear(prefix, down, d, d_mlp);
            }
            (
                Mlp::Experts { count, d_mlp, latent: width, shared: shares, .. },
                MlpNames::Experts { router, correction, apart, experts, latent, shared },
            ) => {
                self.linear(prefix, router, count, d);
                if let Some(names) = apart {
                    self.add(format!("{prefix}{}", names.router_scale), &[d]);
                    self.add(format!("{prefix}{}", names.factors), &[count]);
                    for norm in [names.experts, names.experts_post, names.shared_post] {
                        self.add(format!("{prefix}{norm}.weight"), &[d]);
                    }
                }
                match correction {
                    None => {}
                    Some(Correction::Vector(name)) => self.add(format!("{prefix}{name}"), &[count]),
                    Some(Correction::Row(name)) => self.add(format!("{prefix}{name}"), &[1, count]),
                }
                if let Some((width, [input, out])) = width.zip(latent) {
                    self.linear(prefix, input, width, d);
                    self.linear(prefix, out, d, width);
                }
                self.experts(prefix, width.unwrap_or(d), count, d_mlp, experts);
                match (shares, shared) {
                    (None, None) => {}
                    (Some(expert), Some(SharedNames::Split { gate, up, down, weigh })) => {
                        self.linear(prefix, gate, expert.d_mlp, d);
                        self.linear(prefix, up, expert.d_mlp, d);
                        self.linear(prefix, down, d, expert.d_mlp);
                        weigh
                            .into_iter()
                            .for_each(|name| self.add(format!("{prefix}{name}.weight"), &[1, d]));
                    }
                    (Some(expert), Some(SharedNames::Stacked { gate_up, down })) => {
                        self.linear(prefix, gate_up, 2 * expert.d_mlp, d);
                        self.linear(prefix, down, d, expert.d_mlp);
                    }
                    (Some(expert), Some(SharedNames::Ungated { up, down })) => {
                        self.linear(prefix, up, expert.d_mlp, d);
                        self.linear(prefix, down, d, expert.d_mlp);
                    }
                    (shares, names) => panic!("{shares:?} is stored as {names:?}"),
                }
            }
            (mlp, names) => panic!("{mlp:?} is stored as {names:?}"),
        }
    }
}
