//! Queries as requests of `/v1/completions`, and what its answers say. Nothing here opens a connection.

use serde_json::{Map, Value, json};

use crate::query::{IMPOSSIBLE, Query, Said};

/// The other end, as far as requests depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// What requests call the model.
    pub model: String,
    /// Whose server it is.
    pub kind: Kind,
}

/// Whose server it is: which fields it knows beside OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `herd serve`.
    Herd,
    /// vLLM, SGLang or llama-server: most of Herd's fields are theirs.
    Open,
    /// Anything else: OpenAI's fields alone.
    Plain,
}

impl Kind {
    /// The kind by what `/v1/models` says of the owner.
    pub fn of(owner: &str) -> Kind {
        match owner {
            "herd" => Kind::Herd,
            "vllm" | "sglang" | "llamacpp" => Kind::Open,
            _ => Kind::Plain,
        }
    }

    /// How log-probabilities of prompts may be had, the best way first.
    pub fn ways(self) -> &'static [Telling] {
        match self {
            Kind::Herd => &[Telling::From],
            Kind::Open | Kind::Plain => &[Telling::Echo, Telling::Prompt],
        }
    }
}

/// How the log-probabilities of a prompt's tokens are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// `prompt_logprobs` from `logprob_start_len` on: pages before it are shared.
    From,
    /// `prompt_logprobs` of all, as vLLM has it.
    Prompt,
    /// `echo` and `logprobs`, as lm-evaluation-harness asks.
    Echo,
}

impl Telling {
    /// Its fields, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Telling::From => "prompt_logprobs with logprob_start_len",
            Telling::Prompt => "prompt_logprobs",
            Telling::Echo => "echo with logprobs",
        }
    }
}

/// Texts that end an answer which OpenAI's shape takes at most.
const STOPS_MAX: usize = 4;

/// The body of the request for a query.
pub fn body(query: &Query, other: &Other, telling: Telling) -> Value {
    let mut body = json!({ "model": other.model, "temperature": 0 });
    match query {
        Query::Likelihood { context, target } => {
            body["prompt"] = context.iter().chain(target).copied().collect();
            // Others than Herd want to write a token at least.
            body["max_tokens"] = u8::from(other.kind != Kind::Herd).into();
            match telling {
                Telling::From => {
                    body["prompt_logprobs"] = 1.into();
                    body["logprob_start_len"] = context.len().into();
                }
                Telling::Prompt => body["prompt_logprobs"] = 1.into(),
                Telling::Echo => {
                    body["echo"] = true.into();
                    body["logprobs"] = 1.into();
                }
            }
        }
        Query::Write { prompt, until, stops, max_tokens, draw: _ } => {
            body["prompt"] = prompt.iter().copied().collect();
            body["max_tokens"] = (*max_tokens).into();
            let most = if other.kind == Kind::Plain { STOPS_MAX } else { until.len() };
            if !until.is_empty() {
                body["stop"] = until.iter().take(most).cloned().collect();
            }
            // What a server would recommend of its own is said to be off.
            let plain = json!({ "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0 });
            add(&mut body, plain);
            if other.kind != Kind::Plain {
                let open = json!({ "top_k": -1, "min_p": 0, "repetition_penalty": 1 });
                add(&mut body, open);
                body["return_token_ids"] = true.into();
            }
            if !stops.is_empty() {
                body["stop_token_ids"] = stops.iter().copied().collect();
            }
            if other.kind == Kind::Herd {
                add(&mut body, json!({ "typical_p": 1, "ignore_eos": true })); // `stops` are all
            }
        }
    }
    body
}

fn add(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

/// What the answer to [`body`] says. Errors: what of it is no answer to the query.
pub fn read(query: &Query, other: &Other, telling: Telling, text: &str) -> Result<Said, String> {
    let answer: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
    let choice = answer.get("choices").and_then(|choices| choices.get(0));
    let choice = choice.and_then(Value::as_object).ok_or("it has no choices")?;
    let read = answer.get("usage").and_then(|usage| usage.get("prompt_tokens"));
    match query {
        Query::Likelihood { context, target } => match telling {
            _ if read
                .and_then(Value::as_u64)
                .is_some_and(|n| n != (context.len() + target.len()) as u64) =>
            {
                let sent = context.len() + target.len();
                Err(format!(
                    "it read {} tokens where {sent} were sent",
                    read.unwrap_or(&Value::Null)
                ))
            }
            Telling::From | Telling::Prompt => by_id(choice, context, target),
            Telling::Echo => echoed(choice, context.len(), target.len()),
        },
        Query::Write { until, .. } => written(choice, until, other.kind == Kind::Herd),
    }
}

/// A log-probability. Errors: it is none.
fn log_prob(value: Option<&Value>, at: usize) -> Result<f64, String> {
    let found = value.and_then(Value::as_f64).filter(|p| *p <= 1e-3); // sums of floats may pass 0
    let found = found.ok_or_else(|| format!("it has no log-probability of token {at}"))?;
    Ok(found.max(IMPOSSIBLE))
}

/// A target's log-probabilities where each token's stand under its id.
fn by_id(choice: &Map<String, Value>, context: &[u32], target: &[u32]) -> Result<Said, String> {
    let list = choice.get("prompt_logprobs").and_then(Value::as_array);
    let list = list.ok_or("it has no prompt_logprobs")?;
    let wanted = context.len() + target.len();
    if list.len() != wanted {
        return Err(format!("it has log-probabilities of {} tokens, not {wanted}", list.len()));
    }
    let (mut log_probs, mut greedy) = (Vec::new(), true);
    for (i, id) in target.iter().enumerate() {
        let at = context.len() + i;
        let missing = || format!("it says nothing of token {at}");
        let told = list[at].as_object().ok_or_else(missing)?;
        let own = told.get(&id.to_string()).ok_or_else(missing)?;
        let own_log_prob = log_prob(own.get("logprob"), at)?;
        let rank = |told: &Value| told.get("rank").and_then(Value::as_u64);
        greedy &= match told.values().any(|told| rank(told) == Some(1)) {
            true => rank(own) == Some(1),
            false => told.values().all(|told| told["logprob"].as_f64() <= Some(own_log_prob)),
        };
        log_probs.push(own_log_prob);
    }
    Ok(Said::Likelihood { log_probs, greedy })
}

/// The same where they stand in lists, the prompt's before those of the answer.
fn echoed(choice: &Map<String, Value>, context: usize, target: usize) -> Result<Said, String> {
    let lists = choice.get("logprobs").and_then(Value::as_object).ok_or("it has no logprobs")?;
    let list = |name: &str| {
        let list = lists.get(name).and_then(Value::as_array);
        list.ok_or_else(|| format!("its logprobs have no {name}"))
    };
    let (own, top) = (list("token_logprobs")?, list("top_logprobs")?);
    // A server that writes one token though none is asked for tells of it behind them.
    let wanted = context + target..=context + target + 1;
    if !wanted.contains(&own.len()) || top.len() != own.len() {
        let wanted = context + target;
        return Err(format!("it has log-probabilities of {} tokens, not {wanted}", own.len()));
    }
    let (mut log_probs, mut greedy) = (Vec::new(), true);
    for at in context..context + target {
        let own = log_prob(own.get(at), at)?;
        let top = top[at].as_object().ok_or_else(|| format!("it says nothing of token {at}"))?;
        greedy &= top.values().all(|p| p.as_f64() <= Some(own));
        log_probs.push(own);
    }
    Ok(Said::Likelihood { log_probs, greedy })
}

/// What was written: the text before what ends it; no ids where they are not told.
fn written(choice: &Map<String, Value>, until: &[String], ids: bool) -> Result<Said, String> {
    let text = choice.get("text").and_then(Value::as_str).ok_or("it has no text")?;
    let full = match choice.get("finish_reason").and_then(Value::as_str) {
        Some("stop" | "eos" | "stop_sequence") => false,
        Some("length" | "max_tokens") => true,
        Some(other) => return Err(format!("it ended by {other:?}")),
        None => return Err("it does not say why it ended".to_owned()),
    };
    let told = choice.get("token_ids").and_then(Value::as_array);
    if ids && told.is_none() {
        return Err("it has no token_ids".to_owned());
    }
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = told.map_or(Some(vec![]), |ids| ids.iter().map(id).collect());
    let end = until.iter().filter_map(|stop| text.find(stop.as_str())).min();
    Ok(Said::Written {
        ids: ids.ok_or("its token_ids are no ids")?,
        text: text[..end.unwrap_or(text.len())].to_owned(),
        full: full && end.is_none(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(kind: Kind) -> Other {
        Other { model: "m".to_owned(), kind }
    }

    fn likelihood() -> Query {
        Query::Likelihood { context: vec![5, 6], target: vec![7, 8] }
    }

    fn write() -> Query {
        let until = ["a", "b", "c", "d", "\n"].map(str::to_owned).to_vec();
        Query::Write { prompt: vec![1], until, stops: vec![2], max_tokens: 9, draw: None }
    }

    #[test]
    fn each_kind_is_asked_in_the_fields_that_it_knows() {
        let asked = body(&likelihood(), &other(Kind::Herd), Telling::From);
        assert_eq!((&asked["prompt"], &asked["max_tokens"]), (&json!([5, 6, 7, 8]), &json!(0)));
        assert_eq!(asked["logprob_start_len"], 2);
        let asked = body(&likelihood(), &other(Kind::Plain), Telling::Echo);
        assert_eq!((&asked["echo"], &asked["max_tokens"]), (&json!(true), &json!(1)));
        let asked = body(&write(), &other(Kind::Plain), Telling::Echo);
        assert_eq!((asked["stop"].as_array().unwrap().len(), asked.get("top_k")), (4, None));
        let asked = body(&write(), &other(Kind::Herd), Telling::From);
        assert_eq!((&asked["stop"][4], &asked["ignore_eos"]), (&json!("\n"), &json!(true)));
    }

    #[test]
    fn likelihoods_are_those_of_the_target_in_both_shapes() {
        let lists = json!({ "choices": [{ "logprobs": {
            "token_logprobs": [null, -1.0, -0.25, -2.0, -9.0],
            "top_logprobs": [null, {"b": -1.0}, {"c": -0.25}, {"x": -0.5, "d": -2.0}, {}],
        }}]});
        let plain = other(Kind::Plain);
        let said = read(&likelihood(), &plain, Telling::Echo, &lists.to_string()).unwrap();
        let wanted = Said::Likelihood { log_probs: vec![-0.25, -2.0], greedy: false };
        assert_eq!(said, wanted);
        let ids = json!({ "choices": [{ "prompt_logprobs": [
            null, null, {"7": {"logprob": -0.25, "rank": 1}},
            {"9": {"logprob": -0.5, "rank": 1}, "8": {"logprob": -2.0, "rank": null}},
        ]}]});
        assert_eq!(read(&likelihood(), &plain, Telling::Prompt, &ids.to_string()).unwrap(), wanted);
        // Of equals the one that the server ranks first is greedy.
        let text = ids.to_string().replace("-0.5", "-2.0");
        assert_eq!(read(&likelihood(), &plain, Telling::Prompt, &text).unwrap(), wanted);
    }

    #[test]
    fn texts_end_where_they_are_told_to() {
        let said = |end: Value, text: &str| {
            let choice = json!({ "text": text, "finish_reason": end, "token_ids": [3, 4] });
            let answer = json!({ "choices": [choice] }).to_string();
            read(&write(), &other(Kind::Herd), Telling::From, &answer)
        };
        let written =
            |text: &str, full| Ok(Said::Written { ids: vec![3, 4], text: text.to_owned(), full });
        assert_eq!(said(json!("stop"), "xyz"), written("xyz", false));
        assert_eq!(said(json!("length"), "xyz"), written("xyz", true));
        assert_eq!(said(json!("length"), "xy\nb"), written("xy", false));
        assert!(said(json!("abort"), "x").unwrap_err().contains("abort"));
        assert!(said(Value::Null, "x").is_err());
    }

    #[test]
    fn what_is_no_answer_is_never_taken_for_one() {
        for text in [
            "",
            "{",
            "[]",
            "7",
            "{\"choices\":[]}",
            "{\"choices\":[7]}",
            "{\"choices\":[{}]}",
            "{\"choices\":[{\"text\":7}]}",
            "{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\",\"token_ids\":[-1]}]}",
            "{\"choices\":[{\"logprobs\":null}]}",
            "{\"choices\":[{\"logprobs\":{\"token_logprobs\":[1],\"top_logprobs\":[]}}]}",
            "{\"choices\":[{\"logprobs\":{\"token_logprobs\":[null,null,null,null],\
             \"top_logprobs\":[{},{},{},{}]}}]}",
            "{\"choices\":[{\"logprobs\":{\"token_logprobs\":[0,0,7.5,0],\
             \"top_logprobs\":[{},{},{},{}]}}]}",
            "{\"choices\":[{\"prompt_logprobs\":[null,{}]}]}",
            "{\"choices\":[{\"prompt_logprobs\":[null,null,null,null]}]}",
            "{\"choices\":[{\"prompt_logprobs\":[null,null,{\"6\":{\"logprob\":-1}},{}]}]}",
        ] {
            for query in [likelihood(), write()] {
                for telling in [Telling::From, Telling::Prompt, Telling::Echo] {
                    for kind in [Kind::Herd, Kind::Plain] {
                        assert!(read(&query, &other(kind), telling, text).is_err(), "{text}");
                    }
                }
            }
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&write(), &other(Kind::Herd), Telling::From, &deep).is_err());
    }
}
