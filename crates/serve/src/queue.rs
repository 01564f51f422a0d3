//! A queue of questions, which one thread answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Limit on waiting questions; a browser asks a few at a time.
const LONGEST_LINE: usize = 64;

/// The present activity, in words, for clients that wait.
#[derive(Debug, Clone, Default)]
pub struct Doing(Arc<Mutex<String>>);

impl Doing {
    /// Sets the activity.
    pub fn set(&self, what: &str) {
        what.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The receiver of one answer.
#[derive(Debug, Clone)]
pub struct Reply {
    lines: UnboundedSender<Bytes>,
    doing: Doing,
}

impl Reply {
    /// Sends one object of the answer; does nothing if the browser has gone.
    pub fn send(&self, object: &Value) {
        let mut line = object.to_string();
        line.push('\n');
        // A closed channel means that the browser has gone.
        let _ = self.lines.send(line.into());
    }

    /// Whether the browser has gone, so that the rest of the work is pointless.
    pub fn is_abandoned(&self) -> bool {
        self.lines.is_closed()
    }

    /// Sets the present activity, for clients that wait.
    pub fn doing(&self, what: &str) {
        self.doing.set(what);
    }
}

/// A question and the receiver of its answer.
type Asked = (Value, Reply);

/// The sending end of the queue.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    sender: SyncSender<Asked>,
    waiting: Arc<AtomicUsize>,
    doing: Doing,
}

/// The receiving end of the queue.
#[derive(Debug)]
pub(crate) struct Desk {
    receiver: Receiver<Asked>,
    waiting: Arc<AtomicUsize>,
    doing: Doing,
}

pub(crate) fn line() -> (Line, Desk) {
    let (sender, receiver) = sync_channel(LONGEST_LINE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let doing = Doing::default();
    (Line { sender, waiting: Arc::clone(&waiting), doing: doing.clone() }, Desk { receiver, waiting, doing })
}

impl Line {
    /// Queues a question. The answer's first object says how many are ahead, and what is being done meanwhile. `None`
    /// if the queue is full.
    pub(crate) fn ask(&self, question: Value) -> Option<UnboundedReceiver<Bytes>> {
        let (lines, answer) = unbounded_channel();
        let reply = Reply { lines, doing: self.doing.clone() };
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        reply.send(&json!({"event": "waiting", "ahead": ahead, "doing": self.doing.get()}));
        match self.sender.try_send((question, reply)) {
            Ok(()) => Some(answer),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Desk {
    /// Answers questions until no more can come. Skips those whose browser has gone while they waited.
    pub(crate) fn work<A: FnMut(Value, &Reply)>(self, answerer: impl FnOnce(&Doing) -> A) {
        let mut answer = answerer(&self.doing);
        self.doing.set("");
        for (question, reply) in &self.receiver {
            if !reply.is_abandoned() {
                answer(question, &reply);
                reply.doing("");
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
