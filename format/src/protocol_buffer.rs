//! The fields of a protocol buffer message, in the order of the bytes.
//!
//! A field is a tag, `number << 3 | kind`, and a value; tag and lengths are varints of seven bits a byte, the lowest
//! first. (Protocol Buffers, "Encoding".)

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// Text, bytes or another message.
    Bytes(&'a [u8]),
    /// Any kind of number: its bits.
    Number(u64),
}

/// The numbers and values of all fields; the first error ends them. A field's number keeps its low 32 bits, as other
/// readers have it.
pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = Result<(u32, Value<'_>), String>> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let field = field(&mut message);
        if field.is_none() {
            message = &[];
        }
        Some(field.ok_or_else(|| "the protocol buffer is cut short or malformed".to_owned()))
    })
}

fn field<'a>(message: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let tag = varint(message)?;
    let value = match tag & 7 {
        0 => Value::Number(varint(message)?),
        1 => Value::Number(u64::from_le_bytes(take(message, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(message)?;
            Value::Bytes(take(message, usize::try_from(length).ok()?)?)
        }
        5 => Value::Number(u32::from_le_bytes(take(message, 4)?.try_into().ok()?).into()),
        _ => return None,
    };
    Some(((tag >> 3) as u32, value))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = message.split_at_checked(count)?;
    *message = rest;
    Some(head)
}

/// Adds a field of text, bytes or another message.
pub fn put_bytes(message: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(message, u64::from(number) << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Adds a field that is a whole number.
pub fn put_number(message: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(message, u64::from(number) << 3);
    put_varint(message, value);
}

/// Adds a field that is a float of 32 bits.
pub fn put_float(message: &mut Vec<u8>, number: u32, value: f32) {
    put_varint(message, u64::from(number) << 3 | 5);
    message.extend(value.to_le_bytes());
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_field_is_found() {
        let message =
            [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let found: Result<Vec<_>, _> = fields(&message).collect();
        let number = Value::Number;
        assert_eq!(
            found,
            Ok(vec![
                (1, number(150)),
                (2, Value::Bytes(b"hi")),
                (3, number(0x0403_0201)),
                (4, number(0x0807_0605_0403_0201))
            ])
        );
    }

    #[test]
    fn what_is_cut_or_of_no_kind_is_an_error_and_the_end() {
        for message in
            [&[0x08][..], &[0x12, 3, 1, 2], &[0x12, 0xff], &[0x0b], &[0x1d, 1], &[0x80; 11]]
        {
            let found: Vec<_> = fields(message).collect();
            assert!(matches!(found[..], [Err(_)]), "{message:?}");
        }
        assert_eq!(fields(&[]).count(), 0);
    }
}
