//! Pictures of grey levels in the form that needs no library: PGM (P5), 8 bits. Pure.

/// Grey levels, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// One a pixel.
    pub levels: Vec<u8>,
}

/// Reads a PGM file; nothing for what is none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(file: &[u8]) -> Option<Result<Picture, String>> {
    let rest = file.strip_prefix(b"P5").filter(|rest| rest[..rest.len().min(1)] == *b"\n")?;
    Some(parse(rest))
}

fn parse(mut rest: &[u8]) -> Result<Picture, String> {
    let mut numbers = [0_usize; 3];
    for number in &mut numbers {
        loop {
            rest = rest.trim_ascii_start();
            match rest.split_first() {
                Some((b'#', comment)) => {
                    let end = comment.iter().position(|byte| *byte == b'\n');
                    rest = &comment[end.unwrap_or(comment.len())..];
                }
                _ => break,
            }
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&rest[..digits]).unwrap_or_default();
        *number = text.parse().map_err(|_| "a PGM file whose head is cut or wrong".to_owned())?;
        rest = &rest[digits..];
    }
    let [width, height, levels] = numbers;
    let pixels = rest.get(1..).unwrap_or_default();
    if levels != 255 || width.checked_mul(height) != Some(pixels.len()) {
        return Err(format!(
            "a PGM file of {width} x {height} pixels in {} bytes with {levels} as the highest level; \
             send 8 bits a pixel, 255 the highest",
            pixels.len()
        ));
    }
    Ok(Picture { width, height, levels: pixels.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_read_whatever_its_head_looks_like() {
        let picture = Picture { width: 2, height: 1, levels: vec![0, 255] };
        for head in ["P5\n2 1\n255\n", "P5\n# made by hand\n2\n# x\n1 255\n"] {
            assert_eq!(read(&[head.as_bytes(), &[0, 255]].concat()), Some(Ok(picture.clone())));
        }
        for wrong in ["P5\n", "P5\n2 1\n255\n", "P5\n2 1\n65535\nabcd", "P5\n2 x\n255\nab", "P5\n#"]
        {
            assert!(read(wrong.as_bytes()).unwrap().is_err(), "{wrong}");
        }
        assert_eq!(read(b"P6\n"), None);
        assert_eq!(read(b"P5"), None);
    }
}
