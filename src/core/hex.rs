//! Octets as hexadecimal digits: how keys and challenges travel in `cryptosign`, and how keys are configured.

use std::fmt::Write;

/// Two lower-case digits per octet.
pub fn encode(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// Digits of either case; `None` for anything else and for an odd number of them.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// The same, of exactly `N` octets.
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Before decoding: the text may be a stranger's.
    (text.len() == 2 * N)
        .then(|| decode(text))??
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(encode(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(decode("007FfF"), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(decode(""), Some(vec![]));
        for wrong in ["0", "0g", "+1", "é", "0x"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        assert_eq!(decode_array("0102"), Some([1, 2]));
        assert_eq!(decode_array::<2>("01"), None);
    }
}
