//! A made-up byte-level vocabulary: it has the size that a model needs and can spell every text, byte by byte.

use std::collections::BTreeSet;

/// Special tokens; they come first.
pub(crate) const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Id of the token that begins (and pads) a text.
pub(crate) const BOS: u32 = 0;
/// Id of the token that ends a turn.
pub(crate) const END_OF_TURN: u32 = 2;
/// Smallest vocabulary: the special tokens and one token a byte.
pub(crate) const SIZE_MIN: u32 = SPECIAL.len() as u32 + 256;

/// Turns of a chat between `<|im_start|>` and `<|im_end|>`.
pub(crate) const CHAT_TEMPLATE: &str = "\
{% for m in messages %}{{ '<|im_start|>' ~ m['role'] ~ '\n' ~ m['content'] ~ '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const CONSONANTS: &[u8; 20] = b"bcdfghjklmnpqrstvwxz";
const VOWELS: &[u8; 5] = b"aeiou";
/// Words of three syllables.
const WORDS: u64 = 100 * 100 * 100;

/// Tokens in order of id, `size` of them, all different: special tokens, the 256 bytes in GPT-2's spelling, then invented words of
/// three syllables, every other one behind a space.
///
/// There are no merges, so text is encoded byte by byte; words appear only in what a model generates.
pub(crate) fn tokens(size: u32) -> Vec<String> {
    let mut tokens: Vec<String> = SPECIAL.iter().map(|s| (*s).to_owned()).collect();
    tokens.extend(byte_spelling().into_iter().map(String::from));
    let words = u64::from(size.saturating_sub(SIZE_MIN)).min(WORDS);
    tokens.extend((0..words).map(word));
    tokens
}

/// GPT-2's stand-in for each byte: printable ones stand for themselves, the others for characters from U+0100 on.
fn byte_spelling() -> Vec<char> {
    let mut spare = '\u{100}'..;
    let printable: BTreeSet<u8> = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff).collect();
    (0..=255u8)
        .map(|b| if printable.contains(&b) { char::from(b) } else { spare.next().unwrap_or(char::MAX) })
        .collect()
}

fn word(n: u64) -> String {
    // Odd and no multiple of five, so the product runs through all words before one comes again.
    let mut rest = n * 618_033 % WORDS;
    let mut word = String::new();
    if n.is_multiple_of(2) {
        word.push('Ġ');
    }
    for _ in 0..3 {
        let syllable = (rest % 100) as usize;
        word.push(char::from(CONSONANTS[syllable / 5]));
        word.push(char::from(VOWELS[syllable % 5]));
        rest /= 100;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tokens_differ() {
        for size in [SIZE_MIN, 512, 128_256] {
            let tokens = tokens(size);
            assert_eq!(tokens.len(), size as usize);
            assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), size as usize);
        }
    }

    #[test]
    fn bytes_have_the_spelling_of_gpt_2() {
        let spelling = byte_spelling();
        let spelt = |b: u8| spelling[usize::from(b)];
        assert_eq!((spelt(b'A'), spelt(b' '), spelt(b'\n'), spelt(0)), ('A', 'Ġ', 'Ċ', 'Ā'));
        assert_eq!((spelt(0x7f), spelt(0xa0), spelt(0xad), spelt(0xff)), ('ġ', 'ł', 'Ń', 'ÿ'));
    }
}
