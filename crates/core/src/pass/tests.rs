//! Every pass of every fixture: committed as text, and checked for what makes a pass right.
//!
//! `EASYROUTINE_BLESS=1 cargo test -p easyroutine pass` rewrites the texts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use easyroutine_sites::{Point, Site};
use proptest::prelude::*;

use super::reg::Regs;
use super::show::Shown;
use super::{Asked, At, Form, Program, Reg, Section, Step, Values, emit, outline};
use crate::arch::{Arch, Layer};
use crate::load::{LoadOptions, open};
use crate::source::{FilesKind, ModelFiles};
use crate::tap::Want;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The architectures of all fixtures.
fn architectures() -> BTreeMap<String, Arch> {
    let folders = std::fs::read_dir(here().join("../../fixtures/tiny")).unwrap();
    let read = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let files =
            ModelFiles { kind: FilesKind::Folder(folder), name: name.clone(), commit: None, adapter: None };
        (name, open(&files, &LoadOptions::default()).unwrap().arch().clone())
    };
    let found: BTreeMap<String, Arch> = folders.map(|entry| read(entry.unwrap().path())).collect();
    assert!(found.len() > 20);
    found
}

fn pass(arch: &Arch, wants: &dyn Fn(Point) -> Want) -> Program {
    emit(arch, &Asked { wants, past: None, heads_at_once: 3 }, At::all(arch))
}

/// Wants residual streams and logits, as most runs do.
fn streams(point: Point) -> Want {
    if matches!(point.site(), Site::ResidOut | Site::Logits) { Want::Read } else { Want::Nothing }
}

/// One line per step; the first head stands for all.
fn printed(program: &Program, arch: &Arch) -> String {
    let mut text = String::new();
    for Section { at, steps, .. } in &program.sections {
        text += &format!("{at}\n");
        for step in steps.iter().filter(|step| step.of_one().is_none_or(|number| number == 0)) {
            let form = step.clone().form_mut().map(|(_, form)| *form);
            let form = if form == Some(Form::Operand) { "  (operand)" } else { "" };
            text += &format!("  {}{form}\n", Shown { arch, at: *at, step });
        }
    }
    text
}

/// Fails if a committed text differs, or rewrites it.
fn compare(path: &Path, text: &str) {
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "{} is not what the pass is:\n{text}", path.display());
}

#[test]
fn the_passes_of_all_fixtures_are_as_committed() {
    for (name, arch) in architectures() {
        let kinds: [(&str, &dyn Fn(Point) -> Want); 3] = [
            ("streams and logits are read", &streams),
            ("everything is read", &|_| Want::Read),
            ("heads and patterns are edited", &|point| match point.site() {
                Site::HeadOut | Site::Pattern | Site::HeadKeys => Want::Edit,
                Site::Logits => Want::Read,
                _ => Want::Nothing,
            }),
        ];
        let mut text = String::new();
        for (kind, wants) in kinds {
            text += &format!("# {kind}\n\n{}\n", printed(&pass(&arch, wants), &arch));
        }
        compare(&here().join("tests/passes").join(name + ".txt"), &text);
    }
}

/// Fails if a step reads what no step wrote, or writes what no later step reads.
fn check_flow(name: &str, program: &Program, enters: Regs, leaves: Regs) {
    let steps: Vec<&Step> = program.sections.iter().flat_map(|section| &section.steps).collect();
    let mut written = enters;
    for step in &steps {
        let effects = step.effects();
        assert!(effects.reads.without(written).is_empty(), "{name}: {step:?} reads what nobody wrote");
        written = written.and(effects.writes);
    }
    let mut read_later = leaves;
    for step in steps.iter().rev() {
        let effects = step.effects();
        let is_read = !effects.writes.both(read_later).is_empty();
        assert!(is_read || step.is_lasting(), "{name}: nobody reads what {step:?} writes");
        read_later = read_later.without(effects.writes).and(effects.reads);
    }
}

/// Arbitrary wants of a tap: a few sites, with a few points each.
fn wishes() -> impl Strategy<Value = BTreeMap<usize, bool>> {
    proptest::collection::btree_map(0usize..400, proptest::bool::weighted(0.3), 0..6)
}

fn check_visits(name: &str, program: &Program, wanted: &BTreeMap<Point, Want>) {
    let mut seen = BTreeMap::new();
    for (point, visit) in program.visits() {
        assert!(seen.insert(point, visit.want).is_none(), "{name}: {point} is visited twice");
    }
    assert_eq!(&seen, wanted, "{name}");
}

#[test]
fn what_only_leads_to_an_mlp_output_that_a_tap_puts_is_not_computed() {
    let is_of_mlp = |step: &&Step| {
        use super::Matrix::{Down, Router, SharedDown, SharedUp, Up};
        let is_product =
            |matrix: &super::Matrix| matches!(matrix, Up | Down | Router | SharedUp | SharedDown);
        match step {
            Step::Product { matrix, .. } => is_product(matrix),
            other => matches!(other, Step::Experts { .. } | Step::Route { .. }),
        }
    };
    for (name, arch) in architectures() {
        let wants = |put: Want| {
            move |point: Point| match point.site() {
                Site::MlpOut => put,
                Site::Logits => Want::Read,
                _ => Want::Nothing,
            }
        };
        let steps = |put: Want| {
            let program = pass(&arch, &wants(put));
            check_flow(&name, &program, Regs::NONE, Regs::NONE);
            program.sections.iter().flat_map(|section| &section.steps).filter(is_of_mlp).count()
        };
        assert_eq!(steps(Want::Replace), 0, "{name}");
        let has_mlp = arch.layers.iter().any(|layer| layer.mlp.is_some());
        assert_eq!(steps(Want::Edit) > 0, has_mlp, "{name}");
    }
}

#[test]
fn a_pass_visits_what_is_wanted_and_computes_nothing_else() {
    for (name, arch) in architectures() {
        let points: Vec<Point> = arch.points().collect();
        let check = |wanted: &BTreeMap<Point, Want>| {
            let program = pass(&arch, &|point| wanted.get(&point).copied().unwrap_or(Want::Nothing));
            check_visits(&name, &program, wanted);
            check_flow(&name, &program, Regs::NONE, Regs::NONE);
            assert_eq!(program.sections.is_empty(), wanted.is_empty(), "{name}");
        };
        for want in [Want::Read, Want::Edit] {
            check(&points.iter().map(|point| (*point, want)).collect());
            points.iter().for_each(|point| check(&BTreeMap::from([(*point, want)])));
        }
        check(&BTreeMap::new());
        let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(chosen in wishes())| {
            let want = |edits: bool| if edits { Want::Edit } else { Want::Read };
            let of = |(at, edits): (usize, bool)| (points[at % points.len()], want(edits));
            check(&chosen.into_iter().map(of).collect());
        });
    }
}

#[test]
fn every_point_is_asked_for_once_in_the_order_of_the_pass() {
    for (name, arch) in architectures() {
        let asked = std::cell::RefCell::new(Vec::new());
        pass(&arch, &|point| {
            asked.borrow_mut().push(point);
            Want::Nothing
        });
        let asked = asked.into_inner();
        let set: BTreeSet<Point> = asked.iter().copied().collect();
        assert_eq!(set.len(), asked.len(), "{name}: a point was asked for twice");
        assert_eq!(set, arch.points().collect(), "{name}");
    }
}

#[test]
fn the_table_of_sites_says_how_wide_a_visit_is() {
    for (name, arch) in architectures() {
        for (point, visit) in pass(&arch, &|_| Want::Read).visits() {
            let width = match &visit.values {
                Values::Columns(_, columns) => Some(columns.len()),
                Values::SharedKeys { width } => Some(*width),
                Values::Chosen(_) => Some(arch.d_model),
                Values::Logits { width, .. } => Some(*width),
                Values::Pairs { .. } => None,
            };
            assert_eq!(arch.width(point), width, "{name}: {point}");
        }
    }
}

#[test]
fn a_stretch_of_the_pass_goes_from_stream_to_stream() {
    let stream = Regs::of(&[Reg::Stream]);
    for (name, arch) in architectures() {
        let entering = if arch.per_layer.is_some() { stream.and(Regs::of(&[Reg::PerLayer])) } else { stream };
        for layer in 0..arch.layers.len() {
            for is_of_query_heads in [false, true] {
                let past = move |_: usize| is_of_query_heads;
                let asked = Asked { wants: &|_| Want::Nothing, past: Some(&past), heads_at_once: 1 };
                let program = emit(&arch, &asked, [At::Block(layer)]);
                check_flow(&name, &program, entering, stream);
                let keeps = program.sections[0].steps.iter().filter(|step| matches!(step, Step::Keep { .. }));
                let layer = &arch.layers[layer];
                let attends = layer.attention.is_some() && layer.keys_of().is_none();
                assert_eq!(keeps.count(), usize::from(attends), "{name}: keys and values are kept");
                let states = program.sections[0].steps.iter().filter(|step| **step == Step::KeepStates);
                let recurs = layer.recurrence.is_some();
                assert_eq!(states.count(), usize::from(recurs), "{name}: states are kept");
            }
        }
        let asked = Asked { wants: &streams, past: None, heads_at_once: 1 };
        check_flow(&name, &emit(&arch, &asked, [At::Unembedding]), stream, Regs::NONE);
    }
}

#[test]
fn with_a_past_a_run_goes_on_until_all_keys_are_kept() {
    for (name, arch) in architectures() {
        let asked = Asked { wants: &|_| Want::Nothing, past: Some(&|_| false), heads_at_once: 1 };
        let program = emit(&arch, &asked, At::all(&arch));
        let last = program.sections.last().unwrap();
        let mixing =
            arch.layers.iter().rposition(|layer: &Layer| layer.mixes() && layer.keys_of().is_none()).unwrap();
        assert_eq!(last.at, At::Block(mixing), "{name}");
        let end = last.steps.last();
        assert!(matches!(end, Some(Step::Keep { .. } | Step::KeepStates)), "{name}: {last:?}");
    }
}

#[test]
fn an_outline_names_every_site_that_the_architecture_has() {
    for (name, arch) in architectures() {
        let outline = outline(&arch);
        assert_eq!(outline.iter().map(|part| part.count).sum::<usize>(), arch.layers.len() + 2, "{name}");
        let shown: BTreeSet<&String> =
            outline.iter().flat_map(|part| &part.rows).flat_map(|row| &row.sites).collect();
        let sites: BTreeSet<String> = arch.points().map(|point| point.site().template()).collect();
        assert_eq!(shown, sites.iter().collect(), "{name}");
    }
}
