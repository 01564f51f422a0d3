//! A command line as typed into a shell.

/// Words quoted for a POSIX shell.
pub(super) fn shell(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_words_back() {
        let words = ["lens", "It's a \"$HOME\" `x`\n", "", "resid_out_5@last*0.5", "--layers", "0:30:5,-1"]
            .map(str::to_owned);
        let line = shell(&words);
        assert_eq!(line, "lens 'It'\\''s a \"$HOME\" `x`\n' '' 'resid_out_5@last*0.5' --layers 0:30:5,-1");
        let out = std::process::Command::new("sh").args(["-c", &format!("printf '%s\\0' {line}")]).output();
        let read = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        assert_eq!(read, words.iter().map(|word| format!("{word}\0")).collect::<String>());
    }
}
