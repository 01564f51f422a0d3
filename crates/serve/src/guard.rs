//! Access control: the token, and the names under which a browser may know this server.

use std::fmt;

use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use subtle::ConstantTimeEq as _;

/// The secret that every address must begin with.
#[derive(Clone)]
pub struct Token(String);

/// Why a token is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// Fewer than [`Token::SHORTEST`] characters, more than [`Token::LONGEST`], or characters other than letters,
    /// digits, `-` and `_`.
    Malformed,
    /// The system delivered no random bytes.
    NoRandomness,
}

impl Token {
    /// Length of the shortest token: 128 random bits in base 64 have 22 characters.
    pub const SHORTEST: usize = 22;
    /// Length of the longest token.
    pub const LONGEST: usize = 200;

    /// 192 random bits from the operating system, as 48 hexadecimal digits.
    ///
    /// # Errors
    /// If the system delivers none.
    pub fn random() -> Result<Self, TokenError> {
        let mut bytes = [0_u8; 24];
        getrandom::fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// The user's own token, which keeps addresses stable across starts.
    ///
    /// # Errors
    /// If it is too short, too long, or has characters that a URL would have to escape.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match (Self::SHORTEST..=Self::LONGEST).contains(&text.len()) && text.chars().all(is_plain) {
            true => Ok(Token(text.to_owned())),
            false => Err(TokenError::Malformed),
        }
    }

    /// The token as in an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text is this token, compared in constant time.
    fn is(&self, text: &str) -> bool {
        bool::from(self.0.as_bytes().ct_eq(text.as_bytes()))
    }
}

/// A token is a secret and must not appear in logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::Malformed => write!(
                f,
                "a token has {} to {} letters, digits, `-` and `_`",
                Token::SHORTEST,
                Token::LONGEST
            ),
            TokenError::NoRandomness => f.write_str("the system gives no random bytes"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was sent to another host name than this server's.
    Host,
    /// A page of another origin sent it.
    Origin,
    /// Its path does not begin with the token.
    Token,
}

/// Checks every request before anything else.
#[derive(Debug)]
pub(crate) struct Guard {
    token: Token,
    port: u16,
}

impl Guard {
    pub(crate) fn new(token: Token, port: u16) -> Self {
        Guard { token, port }
    }

    /// The rest of the path after the token; `None` if not even a slash follows.
    ///
    /// # Errors
    /// If the request is refused.
    pub(crate) fn admit<'p>(&self, headers: &HeaderMap, path: &'p str) -> Result<Option<&'p str>, Refusal> {
        // If an attacker's DNS name points to this machine, that name is in `Host`, whatever it resolves to.
        if !only(headers, &HOST).is_some_and(|host| self.is_own(host)) {
            return Err(Refusal::Host);
        }
        // Browsers state the origin of every POST. Other programs send none, and need the token.
        if headers.contains_key(ORIGIN) {
            let own = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_own(host));
            if !only(headers, &ORIGIN).is_some_and(own) {
                return Err(Refusal::Origin);
            }
        }
        let path = path.strip_prefix('/').unwrap_or(path);
        let (token, rest) = match path.split_once('/') {
            Some((token, rest)) => (token, Some(rest)),
            None => (path, None),
        };
        if self.token.is(token) { Ok(rest) } else { Err(Refusal::Token) }
    }

    fn is_own(&self, host: &str) -> bool {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        (name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost")) && port.parse() == Ok(self.port)
    }
}

/// The value of a header that occurs once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn admitted<'p>(headers: &[(HeaderName, &str)], path: &'p str) -> Result<Option<&'p str>, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), value.parse().unwrap());
        }
        Guard::new(Token::new(TOKEN).unwrap(), 7777).admit(&map, path)
    }

    #[test]
    fn only_its_own_names_are_answered() {
        let path = format!("/{TOKEN}/ask");
        for host in ["127.0.0.1:7777", "localhost:7777", "LOCALHOST:7777"] {
            assert_eq!(admitted(&[(HOST, host)], &path), Ok(Some("ask")), "{host}");
        }
        let foreign = [
            "127.0.0.1",
            "127.0.0.1:7778",
            "evil.example:7777",
            "localhost.evil.example:7777",
            "127.0.0.1.evil.example:7777",
            "127.0.0.1:7777:7777",
            "[::1]:7777",
            "0.0.0.0:7777",
            "",
        ];
        for host in foreign {
            assert_eq!(admitted(&[(HOST, host)], &path), Err(Refusal::Host), "{host}");
        }
        assert_eq!(admitted(&[], &path), Err(Refusal::Host));
        assert_eq!(
            admitted(&[(HOST, "localhost:7777"), (HOST, "localhost:7777")], &path),
            Err(Refusal::Host)
        );
    }

    #[test]
    fn pages_of_other_origins_are_not_answered() {
        let path = format!("/{TOKEN}/");
        let host = (HOST, "127.0.0.1:7777");
        for origin in ["http://127.0.0.1:7777", "http://localhost:7777"] {
            assert_eq!(admitted(&[host.clone(), (ORIGIN, origin)], &path), Ok(Some("")), "{origin}");
        }
        for origin in ["null", "http://127.0.0.1:8888", "https://127.0.0.1:7777", "http://evil.example", ""] {
            assert_eq!(admitted(&[host.clone(), (ORIGIN, origin)], &path), Err(Refusal::Origin), "{origin}");
        }
    }

    #[test]
    fn the_token_is_the_whole_first_part_of_the_path() {
        let host = [(HOST, "127.0.0.1:7777")];
        assert_eq!(admitted(&host, &format!("/{TOKEN}")), Ok(None));
        assert_eq!(admitted(&host, &format!("/{TOKEN}/a/b")), Ok(Some("a/b")));
        for path in [
            "/",
            "",
            "//",
            "/ask",
            &format!("/{}/ask", &TOKEN[1..]),
            &format!("/{TOKEN}0/ask"),
            &format!("//{TOKEN}/"),
        ] {
            assert_eq!(admitted(&host, path), Err(Refusal::Token), "{path}");
        }
    }

    #[test]
    fn tokens_are_long_random_and_fit_into_an_address() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_eq!(one.as_str().len(), 48);
        assert_ne!(one.as_str(), other.as_str());
        assert!(Token::new(one.as_str()).is_ok());
        for bad in
            ["", "short", &"a".repeat(21), &"a".repeat(201), &format!("{}/", "a".repeat(30)), &"é".repeat(15)]
        {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{one:?}"), "Token(…)");
    }
}
