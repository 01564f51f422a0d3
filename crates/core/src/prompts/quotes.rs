//! Detects what the table reader ignores: a quoted field that does not end, or continues after its closing quote. The
//! reader takes all that follows for the field, or joins both parts; either silently gives another text.

use std::collections::VecDeque;

use super::Place;
use crate::error::Result;

/// Follows the bytes of a table as its reader does (RFC 4180, section 2).
pub(super) struct Quotes {
    /// The byte between fields.
    between: u8,
    /// Bytes seen, and the line of the next one, from 1.
    seen: u64,
    line: usize,
    state: State,
    /// The start of the last quoted field.
    opened: Spot,
    fault: Option<(Spot, &'static str)>,
    /// The starts of records not yet asked for.
    records: VecDeque<Spot>,
}

#[derive(Clone, Copy)]
struct Spot {
    byte: u64,
    line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a record.
    Record,
    /// Before a field.
    Field,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of an escaped pair.
    Quote,
}

/// The mark that some editors put at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl Quotes {
    pub(super) fn new(between: u8) -> Quotes {
        Quotes {
            between,
            seen: 0,
            line: 1,
            state: State::Record,
            opened: Spot { byte: 0, line: 1 },
            fault: None,
            records: VecDeque::new(),
        }
    }

    /// Processes the next bytes; an empty slice means the end of the file.
    pub(super) fn follow(&mut self, bytes: &[u8]) {
        if bytes.is_empty() && self.state == State::Quoted {
            self.fault.get_or_insert((self.opened, "a field in quotes begins here and has no end"));
        }
        for byte in bytes {
            let is_mark = BYTE_ORDER_MARK.get(self.seen as usize) == Some(byte);
            if !is_mark || self.state != State::Record {
                self.step(*byte);
            }
            self.seen += 1;
            self.line += usize::from(*byte == b'\n');
        }
    }

    fn step(&mut self, byte: u8) {
        let here = Spot { byte: self.seen, line: self.line };
        let is_end = matches!(byte, b'\n' | b'\r');
        if self.state == State::Record && !is_end {
            self.records.push_back(here);
            self.state = State::Field;
        }
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) | (State::Quote, b'"') => State::Quoted,
            (State::Field, b'"') => {
                self.opened = here;
                State::Quoted
            }
            (_, byte) if byte == self.between => State::Field,
            _ if is_end => State::Record,
            (State::Quote, _) => {
                self.fault.get_or_insert((here, "a field goes on behind its closing quote"));
                State::Plain
            }
            _ => State::Plain,
        };
    }

    /// The line on which the next record begins; the record ends at byte `end`.
    ///
    /// # Errors
    /// If the record has a fault.
    pub(super) fn record(&mut self, row: usize, end: u64) -> Result<Option<usize>> {
        if let Some((at, what)) = self.fault.filter(|(at, _)| at.byte < end) {
            let place = Place { row, line: Some(at.line) };
            return Err(place.wrong(what).hint(NOT_QUOTED));
        }
        let first = self.records.front().filter(|at| at.byte < end).map(|at| at.line);
        while self.records.front().is_some_and(|at| at.byte < end) {
            self.records.pop_front();
        }
        Ok(first)
    }
}

const NOT_QUOTED: &str = "a field that contains quotes stands in quotes itself, each of its own written twice: \"say \"\"yes\"\"\"";

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault reported for a table, byte by byte and all at once.
    fn fault(table: &str) -> Option<(usize, &'static str)> {
        let mut at_once = Quotes::new(b',');
        at_once.follow(table.as_bytes());
        at_once.follow(&[]);
        let mut singly = Quotes::new(b',');
        table.as_bytes().iter().for_each(|byte| singly.follow(&[*byte]));
        singly.follow(&[]);
        let of = |quotes: &Quotes| quotes.fault.map(|(at, what)| (at.line, what));
        assert_eq!(of(&at_once), of(&singly));
        of(&at_once)
    }

    #[test]
    fn quotes_that_close_are_no_fault() {
        for table in [
            "a,b\n\"x, y\",\"say \"\"yes\"\"\"\r\n\"two\nlines\",\"\"\n",
            "a\nit\"s,5\"\n",
            "\u{feff}\"a\"\n\"x\"",
            "",
            "\"\"\"\"",
        ] {
            assert_eq!(fault(table), None, "{table:?}");
        }
    }

    #[test]
    fn quotes_that_do_not_close_are_found_on_their_line() {
        let open = "a field in quotes begins here and has no end";
        let behind = "a field goes on behind its closing quote";
        assert_eq!(fault("id,text\n1,\"abc\n2,def\n"), Some((2, open)));
        assert_eq!(fault("a\n\n\"x\n\"\"y"), Some((3, open)));
        assert_eq!(fault("a,b\n\"so\" it is,1\n"), Some((2, behind)));
        assert_eq!(fault("a,b\n\"so,1\n2,3\n4,\"no\"\n"), Some((4, behind)));
    }

    #[test]
    fn records_begin_behind_blank_lines() {
        let mut quotes = Quotes::new(b',');
        quotes.follow(b"text\nNA\n\n\r\n\"x\ny\"\nz\n");
        let lines: Vec<_> = [5, 8, 17, 19].map(|end| quotes.record(0, end).unwrap()).into();
        assert_eq!(lines, [Some(1), Some(2), Some(5), Some(7)]);
    }
}
