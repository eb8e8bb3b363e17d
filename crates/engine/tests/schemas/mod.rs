//! Random schemas, and what they mean: written from the standard, without the library that is tested.

use serde_json::{Map, Value, json};

/// Numbers that look random.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A schema with parts as deep as this.
pub fn schema(dice: &mut Dice, depth: usize) -> Value {
    let mut schema = part(dice, depth);
    if let (0, Value::Object(map)) = (dice.below(4), &mut schema) {
        map.insert(
            "$defs".into(),
            json!({ "it": { "type": "integer", "minimum": 1, "maximum": 9 } }),
        );
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            properties.insert("linked".into(), json!({ "$ref": "#/$defs/it" }));
        }
    }
    schema
}

fn part(dice: &mut Dice, depth: usize) -> Value {
    let kinds = if depth == 0 { 7 } else { 10 };
    match dice.below(kinds) {
        0 => json!({ "type": "boolean" }),
        1 => json!({ "type": "null" }),
        2 => json!({ "enum": ["red", 7, null, { "a": [1] }] }),
        3 => json!({ "const": format!("word {}", dice.below(5)) }),
        4 => {
            let low = dice.below(2_000) as i64 - 1_000;
            json!({ "type": "integer", "minimum": low, "maximum": low + dice.below(500) as i64 })
        }
        5 => json!({ "type": "number", "exclusiveMinimum": -1.5, "maximum": dice.below(9) }),
        6 => match dice.below(3) {
            0 => json!({ "type": "string", "minLength": 1, "maxLength": 1 + dice.below(6) }),
            1 => json!({ "type": "string", "pattern": "^[a-c]{1,3}-[0-9]+$" }),
            _ => json!({ "type": "string", "format": "date" }),
        },
        7 => {
            let low = dice.below(3);
            json!({ "type": "array", "items": part(dice, depth - 1), "minItems": low, "maxItems": low + dice.below(3) })
        }
        8 => json!({ "anyOf": [part(dice, depth - 1), part(dice, depth - 1)] }),
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice, depth: usize) -> Value {
    let names = ["name", "größe", "a \"quoted\" key", "items", "x"];
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for name in &names[..1 + dice.below(4)] {
        properties.insert((*name).into(), part(dice, depth - 1));
        if dice.below(2) == 0 {
            required.push(*name);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": dice.below(3) == 0 })
}

/// Whether a value is as a schema of `root` says.
pub fn holds(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema.as_bool().unwrap_or(false) };
    rules.iter().all(|(rule, wanted)| match rule.as_str() {
        "type" => is_a(wanted.as_str().unwrap(), value),
        "enum" => wanted.as_array().unwrap().contains(value),
        "const" => wanted == value,
        "minimum" => value.as_f64().is_none_or(|x| x >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|x| x <= wanted.as_f64().unwrap()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|x| x > wanted.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|s| s.chars().count() >= size(wanted)),
        "maxLength" => value.as_str().is_none_or(|s| s.chars().count() <= size(wanted)),
        "pattern" => value.as_str().is_none_or(is_code),
        "format" => value.as_str().is_none_or(is_date),
        "minItems" => value.as_array().is_none_or(|a| a.len() >= size(wanted)),
        "maxItems" => value.as_array().is_none_or(|a| a.len() <= size(wanted)),
        "items" => value.as_array().is_none_or(|a| a.iter().all(|item| holds(root, wanted, item))),
        "anyOf" => wanted.as_array().unwrap().iter().any(|one| holds(root, one, value)),
        "$ref" => holds(root, root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value),
        "required" => value.as_object().is_none_or(|map| {
            wanted.as_array().unwrap().iter().all(|name| map.contains_key(name.as_str().unwrap()))
        }),
        "properties" => value.as_object().is_none_or(|map| {
            let known = wanted.as_object().unwrap();
            map.iter().all(|(name, of)| known.get(name).is_none_or(|one| holds(root, one, of)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            let known = rules["properties"].as_object().unwrap();
            map.iter().all(|(name, of)| known.contains_key(name) || holds(root, wanted, of))
        }),
        "$defs" => true,
        other => panic!("no rule {other}"),
    })
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type {other}"),
    }
}

/// `^[a-c]{1,3}-[0-9]+$`.
fn is_code(text: &str) -> bool {
    let Some((letters, digits)) = text.split_once('-') else { return false };
    (1..=3).contains(&letters.len())
        && letters.chars().all(|c| "abc".contains(c))
        && !digits.is_empty()
        && digits.chars().all(|c| c.is_ascii_digit())
}

/// A day of the calendar.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let digits = [year, month, day].iter().all(|part| part.chars().all(|c| c.is_ascii_digit()));
    let number = |part: &str| part.parse::<u32>().unwrap_or(0);
    let lengths = (year.len(), month.len(), day.len()) == (4, 2, 2);
    digits && lengths && (1..=12).contains(&number(month)) && (1..=31).contains(&number(day))
}
