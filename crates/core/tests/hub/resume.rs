//! Downloads that break off, repeat, change or arrive damaged.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use easyroutine::ErrorKind;
use easyroutine::source::{FilesKind, ProgressCallback, ResolveOptions};

use super::place::{Place, cut, once, retrying, small_model, weights};
use super::server::sha256;

#[test]
fn a_cut_download_goes_on_where_it_stopped_in_the_next_run() {
    let place = Place::new(small_model("org/name"));
    cut(&place, "model.safetensors", 123_456);
    let (kind, message, hint) = place.fails("org/name", &once());
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("byte 123456 of 300000 of `model.safetensors`"), "{message}");
    assert!(hint.contains("continues"), "{hint}");
    assert_eq!(place.incomplete().len(), 1);
    place.server.requests();
    let files = place.resolve("org/name", &once()).unwrap();
    let ranges: Vec<_> = place.server.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=123456-"]);
    assert!(place.has(&files, "model.safetensors"));
    assert_eq!(place.incomplete(), [""; 0]);
}

#[test]
fn a_cut_download_goes_on_by_itself() {
    let place = Place::new(small_model("org/name"));
    for at in [100_000, 0, 50_000] {
        cut(&place, "model.safetensors", at);
    }
    let files = place.resolve("org/name", &retrying(5)).unwrap();
    let ranges: Vec<_> = place.server.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=100000-", "bytes=100000-", "bytes=150000-"]);
    assert!(place.has(&files, "model.safetensors"));
}

#[test]
fn an_end_that_looks_regular_but_is_early_is_a_cut() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().ends_by_closing = true;
    cut(&place, "config.json", 1);
    cut(&place, "model.safetensors", 100_000);
    let files = place.resolve("org/name", &retrying(2)).unwrap();
    assert!(place.has(&files, "config.json") && place.has(&files, "model.safetensors"));
}

#[test]
fn a_silent_server_is_asked_again() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().silence = Duration::from_secs(20);
    cut(&place, "model.safetensors", 100_000);
    let mut options = retrying(2);
    options.retries.silence = Duration::from_millis(200);
    let start = Instant::now();
    let files = place.resolve("org/name", &options).unwrap();
    assert!(place.has(&files, "model.safetensors"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(place.server.requests().iter().any(|request| request.range.as_deref() == Some("bytes=100000-")));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().ignores_ranges = true;
    cut(&place, "model.safetensors", 100_000);
    let files = place.resolve("org/name", &retrying(2)).unwrap();
    assert_eq!(place.server.gets_of("model.safetensors"), 2);
    assert!(place.has(&files, "model.safetensors"));
}

#[test]
fn what_was_left_of_another_content_is_not_taken_up() {
    let place = Place::new(small_model("org/name"));
    cut(&place, "model.safetensors", 100_000);
    place.fails("org/name", &once());
    place.server.hub().put("model.safetensors", weights(9, 200_000));
    place.server.requests();
    let files = place.resolve("org/name", &once()).unwrap();
    assert!(place.server.requests().iter().all(|request| request.range.is_none()));
    assert!(place.has(&files, "model.safetensors"));
}

#[test]
fn a_file_that_changes_between_its_headers_and_its_bytes_is_begun_anew() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().changes_on_get = Some("config.json".into());
    let files = place.resolve("org/name", &once()).unwrap();
    let FilesKind::Folder(snapshot) = &files.kind else { panic!("a folder") };
    let target = fs::read_link(snapshot.join("config.json")).unwrap();
    assert_eq!(target, Path::new("../../blobs").join("changed".repeat(6)));
    assert_eq!(place.incomplete(), [""; 0]);
}

#[test]
fn a_file_with_the_wrong_hash_is_refused_and_leaves_nothing() {
    let place = Place::new(small_model("org/name"));
    let right = sha256(&weights(1, 300_000));
    place.server.hub().file("model.safetensors").bytes[7] ^= 1;
    let (kind, message, _) = place.fails("org/name", &retrying(3));
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("`model.safetensors` came damaged") && message.contains(&right), "{message}");
    let left = place.folder.tree();
    assert!(
        !left.iter().any(|name| name.contains(&right) || name.ends_with("model.safetensors")),
        "{left:?}"
    );
    place.server.hub().file("model.safetensors").bytes[7] ^= 1;
    let files = place.resolve("org/name", &once()).unwrap();
    assert!(place.has(&files, "model.safetensors"));
}

#[test]
fn a_damaged_remainder_is_thrown_away_and_fetched_whole() {
    let place = Place::new(small_model("org/name"));
    let etag = place.server.hub().file("model.safetensors").etag.clone();
    for length in [1000, 300_000, 400_000] {
        let root = "hub/models--org--name";
        let _ = fs::remove_dir_all(place.folder.path().join(root));
        place.folder.write(&format!("{root}/blobs/{etag}.incomplete"), vec![b'?'; length]);
        let files = place.resolve("org/name", &once()).unwrap();
        assert!(place.has(&files, "model.safetensors"), "{length}");
    }
}

#[test]
fn progress_goes_up_to_the_whole_of_each_file() {
    let place = Place::new(small_model("org/name"));
    cut(&place, "model.safetensors", 100_000);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let progress = ProgressCallback::new(move |progress| {
        kept.lock().unwrap().push((progress.file.to_owned(), progress.done, progress.total));
    });
    place.resolve("org/name", &ResolveOptions { progress: Some(progress), ..retrying(2) }).unwrap();
    let seen = seen.lock().unwrap();
    for (name, length) in [("config.json", 2), ("model.safetensors", 300_000)] {
        let steps: Vec<_> = seen.iter().filter(|step| step.0 == name).collect();
        assert!(steps.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{steps:?}");
        assert!(steps.iter().all(|step| step.2 == Some(length)));
        assert_eq!(steps.last().unwrap().1, length, "{name}");
    }
}

#[test]
fn a_failing_server_is_asked_again_but_not_for_ever() {
    let place = Place::new(small_model("org/name"));
    place.server.hub().statuses.extend([503, 500, 429]);
    place.resolve("org/name", &retrying(4)).unwrap();
    let place = Place::new(small_model("org/name"));
    place.server.hub().statuses.extend([503; 100]);
    let (kind, message, hint) = place.fails("org/name", &retrying(4));
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("503") && hint.contains("--offline"), "{message} / {hint}");
    assert_eq!(place.server.requests().len(), 4);
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let place = Place::new(small_model("org/name"));
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| place.resolve("org/name", &once()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic").unwrap()).collect::<Vec<_>>()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(place.has(&results[0], "model.safetensors"));
    assert_eq!(place.server.gets_of("model.safetensors"), 1);
    assert!(
        place.folder.tree().iter().all(|name| !name.contains("temporary") && !name.contains("incomplete"))
    );
}

#[test]
fn a_small_file_is_compared_with_the_hash_that_git_gives_it() {
    let place = Place::new(small_model("org/name"));
    let right = place.server.hub().file("config.json").bytes.clone();
    let mut wrong = right.clone();
    wrong[0] ^= 1;
    place.server.hub().file("config.json").bytes = wrong;
    let (kind, message, _) = place.fails("org/name", &once());
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("`config.json` came damaged: its git hash is"), "{message}");
    assert_eq!(place.incomplete(), [""; 0]);
    place.server.hub().file("config.json").bytes = right;
    assert!(place.resolve("org/name", &once()).is_ok());
}

#[test]
fn a_body_that_drips_is_given_up_and_can_be_taken_up_again() {
    let place = Place::new(small_model("org/name"));
    let mut options = once();
    options.retries.silence = Duration::from_millis(300);
    place.server.hub().drip = Some(Duration::from_millis(10));
    let start = Instant::now();
    let (kind, message, _) = place.fails("org/name", &options);
    assert_eq!(kind, ErrorKind::Network);
    assert!(message.contains("slowest that is waited for"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    place.server.hub().drip = None;
    assert!(place.resolve("org/name", &options).is_ok());
}
