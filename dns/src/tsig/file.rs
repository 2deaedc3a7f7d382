//! Key files in the form that `tsig-keygen` writes and BIND reads.
//!
//! ```text
//! key "far" {
//!         algorithm hmac-sha256;
//!         secret "...";
//! };
//! ```
//!
//! Text in, keys out; a secret is never part of a message.

use data_encoding::BASE64;

use super::{Algorithm, TsigKey, TsigKeyError};

/// What is wrong with a key file. The operator must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KeyFileMistake {
    /// From 1.
    pub line: usize,
    pub what: Mistake,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    #[error("expected {0}")]
    Expected(&'static str),
    #[error("a comment or a quoted text has no end")]
    Open,
    #[error("`{0}` is not hmac-sha256, hmac-sha384, hmac-sha512 or hmac-sha1")]
    Algorithm(String),
    #[error("the secret of `{0}` is not base64")]
    Secret(String),
    #[error(transparent)]
    Key(#[from] TsigKeyError),
    #[error("the key `{0}` stands twice")]
    Twice(String),
}

/// Reads all keys of a file.
///
/// # Errors
/// The first mistake, with its line.
pub fn read_keys(text: &str) -> Result<Vec<TsigKey>, KeyFileMistake> {
    let mut tokens = Tokens { rest: text, line: 1 };
    let mut keys: Vec<TsigKey> = Vec::new();
    while let Some(word) = tokens.next()? {
        if word != "key" {
            return Err(tokens.expected("`key`"));
        }
        let key = read_key(&mut tokens)?;
        if keys.iter().any(|k| k.name.wire() == key.1.name.wire()) {
            return Err(tokens.mistake(Mistake::Twice(key.0)));
        }
        keys.push(key.1);
    }
    Ok(keys)
}

fn read_key(tokens: &mut Tokens<'_>) -> Result<(String, TsigKey), KeyFileMistake> {
    let name = tokens.needed("the name of the key")?.to_owned();
    tokens.mark("{")?;
    let (mut algorithm, mut secret) = (None, None);
    loop {
        match tokens.needed("`algorithm`, `secret` or `}`")? {
            "algorithm" => {
                let word = tokens.needed("an algorithm")?;
                let known = Algorithm::from_name(word);
                let unknown = || tokens.mistake(Mistake::Algorithm(word.to_owned()));
                algorithm = Some(known.ok_or_else(unknown)?);
            }
            "secret" => {
                let word = tokens.needed("a secret")?;
                let bytes = BASE64.decode(word.as_bytes());
                let bad = |_| tokens.mistake(Mistake::Secret(name.clone()));
                secret = Some(bytes.map_err(bad)?);
            }
            "}" => break,
            _ => return Err(tokens.expected("`algorithm`, `secret` or `}`")),
        }
        tokens.mark(";")?;
    }
    tokens.mark(";")?;
    let algorithm = algorithm.ok_or_else(|| tokens.expected("`algorithm` in the key"))?;
    let secret = secret.ok_or_else(|| tokens.expected("`secret` in the key"))?;
    let key = TsigKey::new(&name, algorithm, &secret).map_err(|e| tokens.mistake(e.into()))?;
    Ok((name, key))
}

/// Words, quoted texts and single marks.
struct Tokens<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Tokens<'a> {
    fn mistake(&self, what: Mistake) -> KeyFileMistake {
        KeyFileMistake { line: self.line, what }
    }

    fn expected(&self, what: &'static str) -> KeyFileMistake {
        self.mistake(Mistake::Expected(what))
    }

    fn needed(&mut self, what: &'static str) -> Result<&'a str, KeyFileMistake> {
        self.next()?.ok_or_else(|| self.expected(what))
    }

    fn mark(&mut self, mark: &'static str) -> Result<(), KeyFileMistake> {
        match self.next()? {
            Some(found) if found == mark => Ok(()),
            _ => Err(self.expected(match mark {
                "{" => "`{`",
                _ => "`;`",
            })),
        }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn through(&mut self, end: &str) -> Result<&'a str, KeyFileMistake> {
        let at = self.rest.find(end).ok_or_else(|| self.mistake(Mistake::Open))?;
        Ok(self.take(at + end.len()))
    }

    fn next(&mut self) -> Result<Option<&'a str>, KeyFileMistake> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.take(blank);
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                let line = self.rest.find('\n').unwrap_or(self.rest.len());
                self.take(line);
            } else if self.rest.starts_with("/*") {
                self.through("*/")?;
            } else {
                break;
            }
        }
        let Some(first) = self.rest.chars().next() else {
            return Ok(None);
        };
        if first == '"' {
            self.take(1);
            let text = self.through("\"")?;
            return Ok(Some(&text[..text.len() - 1]));
        }
        let ends = |c: char| c.is_whitespace() || "{};\"".contains(c);
        let length = match self.rest.find(ends) {
            Some(0) => 1,
            Some(at) => at,
            None => self.rest.len(),
        };
        Ok(Some(self.take(length)))
    }
}
