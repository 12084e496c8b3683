//! A tokenizer.json as Hugging Face's library reads it, and the raw bytes of every token.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::tokenizer::Tokenizer as HfTokenizer;

use crate::Result;

pub struct Tokenizer {
    inner: HfTokenizer,
    tokens: Vec<Token>,
    joins_bytes: bool,
}

#[derive(Clone, Default)]
struct Token {
    bytes: Vec<u8>,
    special: bool,
}

impl Tokenizer {
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut inner = HfTokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        // Files may ask for padding or truncation of batches; a stream wants all its tokens.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        // The library remembers words of every text that it has seen, for as long as it lives.
        let mut model = inner.get_model().clone();
        model.resize_cache(0);
        inner.with_model(model);

        let decoder =
            serde_json::to_value(inner.get_decoder()).map_err(|error| error.to_string())?;
        let decoding = Decoding::of(&decoder);
        let added = inner.get_added_tokens_decoder();
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let mut tokens = vec![Token::default(); size];
        for (content, id) in vocabulary {
            let added = added.get(&id);
            tokens[id as usize] = Token {
                bytes: decoding.bytes(&content, added.is_some()),
                special: added.is_some_and(|token| token.special),
            };
        }
        Ok(Tokenizer { inner, tokens, joins_bytes: decoding.byte_level })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| error.to_string())
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|error| error.to_string())
    }

    pub fn vocabulary_size(&self) -> usize {
        self.tokens.len()
    }

    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], |token| &token.bytes)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.tokens.get(id as usize).is_some_and(|token| token.special)
    }

    pub fn joins_bytes(&self) -> bool {
        self.joins_bytes
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// What the decoder of a tokenizer.json does to one token.
struct Decoding {
    /// Every character stands for a byte (GPT-2), and nothing else is done.
    byte_level: bool,
    /// `<0x0A>` is a byte (sentencepiece).
    byte_fallback: bool,
    /// `▁` is a space (sentencepiece).
    meta_space: bool,
    byte_of: HashMap<char, u8>,
}

impl Decoding {
    fn of(decoder: &Value) -> Self {
        let steps = match decoder["decoders"].as_array() {
            Some(steps) => steps.clone(),
            None => vec![decoder.clone()],
        };
        let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
        Decoding {
            byte_level: steps.len() == 1 && has("ByteLevel"),
            byte_fallback: has("ByteFallback"),
            meta_space: has("Metaspace")
                || steps.iter().any(|step| {
                    step["type"] == "Replace" && step["pattern"]["String"] == "\u{2581}"
                }),
            byte_of: byte_level_alphabet(),
        }
    }

    fn bytes(&self, token: &str, added: bool) -> Vec<u8> {
        if self.byte_level {
            let bytes: Option<Vec<u8>> =
                token.chars().map(|c| self.byte_of.get(&c).copied()).collect();
            // An added token may hold characters outside of the alphabet: it stands for itself.
            return bytes.unwrap_or_else(|| token.as_bytes().to_vec());
        }
        if self.byte_fallback && !added {
            if let Some(byte) = fallback_byte(token) {
                return vec![byte];
            }
        }
        if self.meta_space {
            return token.replace('\u{2581}', " ").into_bytes();
        }
        token.as_bytes().to_vec()
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255u8).filter(|&byte| !printable(byte));
    let shifted = others.enumerate().map(|(i, byte)| (char::from_u32(0x100 + i as u32), byte));
    (0..=255u8)
        .filter(|&byte| printable(byte))
        .map(|byte| (char::from(byte), byte))
        .chain(shifted.filter_map(|(c, byte)| Some((c?, byte))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut bytes: Vec<u8> = byte_level_alphabet().into_values().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level_alphabet()[&'Ġ'], b' ');
        assert_eq!(byte_level_alphabet()[&'Ċ'], b'\n');
    }
}
