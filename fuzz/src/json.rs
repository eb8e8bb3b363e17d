//! JSON as it comes, or a sound one with changes that keep it JSON.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

/// `data` itself where it begins with a brace; else one of `sound` with up to four changes.
pub fn text(data: &[u8], sound: &[&str]) -> Vec<u8> {
    if data.starts_with(b"{") {
        return data.to_vec();
    }
    let mut u = Unstructured::new(data);
    let chosen = u.choose_index(sound.len()).unwrap_or(0);
    let mut value = serde_json::from_str(sound[chosen]).expect("a sound JSON");
    // When the bytes run out, the changes so far stand.
    let _ = edit(&mut value, &mut u);
    value.to_string().into_bytes()
}

fn edit(value: &mut Value, u: &mut Unstructured) -> Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        let other = odd(u)?;
        change(value, other, u)?;
    }
    Ok(())
}

/// Walks down a random way and puts `other` at its end, or takes away what stands there.
fn change(value: &mut Value, other: Value, u: &mut Unstructured) -> Result<()> {
    let ends = u.ratio(1, 4)?;
    match value {
        Value::Object(map) if !map.is_empty() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = u.choose(&keys)?;
            match (ends, u.int_in_range(0..=2)?) {
                (true, 0) => drop(map.shift_remove(key)),
                (true, 1) => drop(map.insert(u.arbitrary::<String>()?, other)),
                (true, _) => map[key] = other,
                (false, _) => change(&mut map[key], other, u)?,
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let i = u.choose_index(items.len())?;
            match (ends, u.int_in_range(0..=2)?) {
                (true, 0) => drop(items.remove(i)),
                (true, 1) => items.insert(i, items[u.choose_index(items.len())?].clone()),
                (true, _) => items[i] = other,
                (false, _) => change(&mut items[i], other, u)?,
            }
        }
        leaf => *leaf = other,
    }
    Ok(())
}

/// A value at which something may change.
fn odd(u: &mut Unstructured) -> Result<Value> {
    Ok(match u.int_in_range(0..=9)? {
        0 => Value::Null,
        1 => json!(u.arbitrary::<bool>()?),
        2 => json!(u.choose(&[0, 1, -1, 2, 3, 8, 255, 1 << 20, 1 << 31, i64::MAX])?),
        3 => json!(u.choose(&[0.0, 0.5, -0.5, 1e-320, 1e-9, 1e4, 1e38, 1e39, 1e308])?),
        4 => json!(u.arbitrary::<i64>()?),
        5 => json!(u.arbitrary::<f64>()?),
        6 => json!(u.choose(&["", " ", "x", "\0", "▁", "<|eot_id|>", "<0x41>", "(a|b)*?"])?),
        7 => json!([]),
        8 => json!({}),
        _ => json!(u.arbitrary::<String>()?),
    })
}
