//! The file of an arena: what judges are shown, and what their votes leave.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;

const RULES: Rules = Rules { seed: 1, repeats: 0.0, judges_max: 0 };

fn prompt(name: &str) -> Prompt {
    Prompt {
        name: name.to_owned(),
        skill: "coding".to_owned(),
        difficulty: None,
        messages: vec![Turn::new("user", format!("question {name}"))],
        turns: Vec::new(),
    }
}

fn contestant(name: &str) -> Contestant {
    Contestant { name: name.to_owned(), settings: json!({ "weights": name }) }
}

/// An arena in memory in which all prompts are answered by all models.
fn arena(models: &[&str], prompts: usize) -> Ballots {
    let ballots = Ballots::open(std::path::Path::new(":memory:")).unwrap();
    let ids =
        ballots.serve(&models.iter().map(|name| contestant(name)).collect::<Vec<_>>()).unwrap();
    ballots.add(&(0..prompts).map(|i| prompt(&i.to_string())).collect::<Vec<_>>()).unwrap();
    fill(&ballots, &ids);
    ballots
}

fn fill(ballots: &Ballots, ids: &[i64]) {
    for id in ids {
        for task in ballots.missing(*id, 1000).unwrap() {
            let said =
                vec![format!("model {id} on {}", task.prompt.name); task.prompt.turns.len() + 1];
            ballots.put(*id, task.id, &Answer { said, ended: "stop".to_owned(), seed: 7 }).unwrap();
        }
    }
}

fn vote(judge: &str, told: &Value, grade: i8) -> Voted {
    Voted {
        judge: judge.to_owned(),
        show: told["pair"]["show"].as_i64().unwrap(),
        grade: Some(grade),
        seconds: 4.0,
        edited: None,
        follow: None,
    }
}

/// Votes on all that there is; the pairs in their order.
fn judge_all(ballots: &Ballots, judge: &str, rules: &Rules) -> Vec<Value> {
    let mut shown = Vec::new();
    loop {
        let told = ballots.next(judge, rules).unwrap();
        if told["pair"].is_null() {
            return shown;
        }
        ballots.vote(&vote(judge, &told, 2)).unwrap();
        shown.push(told["pair"].clone());
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ArenaError>) -> u16 {
    match result.unwrap_err() {
        ArenaError::Refused(refusal) => refusal.status,
        other => panic!("{other}"),
    }
}

#[test]
fn a_judge_sees_each_pair_once_and_never_whose_it_is() {
    let ballots = arena(&["secret-a", "secret-b", "secret-c"], 10);
    let shown = judge_all(&ballots, "ann", &RULES);
    assert_eq!(shown.len(), 30);
    for pair in &shown {
        assert!(!pair.to_string().contains("secret"), "{pair}");
        assert_eq!(pair["messages"][0]["role"], "user");
        assert_ne!(pair["left"], pair["right"]);
    }
    let told = ballots.next("ann", &RULES).unwrap();
    assert_eq!(
        (&told["votes"], &told["left"], &told["unmade"]),
        (&json!(30), &json!(0), &json!(0))
    );
}

#[test]
fn sides_are_balanced_for_each_pair_of_models_and_swapped_for_the_next_judge() {
    let ballots = arena(&["a", "b", "c"], 11);
    judge_all(&ballots, "ann", &RULES);
    judge_all(&ballots, "bob", &RULES);
    let mut left: BTreeMap<(String, String, String), i32> = BTreeMap::new();
    let mut sides: BTreeMap<(i64, String, String), BTreeSet<String>> = BTreeMap::new();
    for vote in ballots.votes().unwrap() {
        let (a, b) = (vote.left.clone().min(vote.right.clone()), vote.left.clone().max(vote.right));
        let sign = if vote.left == a { 1 } else { -1 };
        *left.entry((vote.judge, a.clone(), b.clone())).or_default() += sign;
        sides.entry((vote.prompt_id, a, b)).or_default().insert(vote.left);
    }
    assert_eq!(left.len(), 6);
    // Eleven prompts: one more on one side.
    assert!(left.values().all(|more| more.abs() <= 1), "{left:?}");
    assert!(sides.len() == 33 && sides.values().all(|of| of.len() == 2));
    // Another seed orders otherwise.
    let first = |seed| {
        let ballots = arena(&["a", "b", "c"], 11);
        ballots.next("ann", &Rules { seed, ..RULES }).unwrap()["pair"]["messages"].clone()
    };
    assert!((2..9).any(|seed| first(seed) != first(1)));
    assert_eq!(first(1), first(1));
}

/// By how much one side is ahead of the other, for each judge and pair of models.
fn ahead(ballots: &Ballots) -> BTreeMap<(String, String, String), i32> {
    let mut ahead = BTreeMap::new();
    for vote in ballots.votes().unwrap().into_iter().filter(|vote| !vote.again) {
        let sign = if vote.left < vote.right { 1 } else { -1 };
        let (a, b) = (vote.left.clone().min(vote.right.clone()), vote.left.max(vote.right));
        *ahead.entry((vote.judge, a, b)).or_default() += sign;
    }
    ahead
}

#[test]
fn sides_are_balanced_for_each_judge_however_judges_take_turns() {
    // By turns, in bursts, and many judges who give up at some time.
    let turns: [&dyn Fn(usize) -> usize; 3] = [&|i| i % 2, &|i| (i / 7) % 3, &|i| (i * i) % 5];
    for (turn, models) in turns.into_iter().zip([&["a", "b"][..], &["a", "b", "c"], &["a", "b"]]) {
        let ballots = arena(models, 60);
        for i in 0..200 {
            let judge = format!("judge {}", turn(i));
            let told = ballots.next(&judge, &RULES).unwrap();
            if !told["pair"].is_null() {
                ballots.vote(&vote(&judge, &told, 1)).unwrap();
            }
            let ahead = ahead(&ballots);
            assert!(ahead.values().all(|more| more.abs() <= 1), "{i}: {ahead:?}");
        }
        // Of answers that two have seen, the sides cancel but for few.
        let mut sides: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for vote in ballots
            .votes()
            .unwrap()
            .into_iter()
            .filter(|vote| vote.left.as_str() < "c" && vote.right.as_str() < "c")
        {
            sides.entry(vote.prompt_id).or_default().push(vote.left);
        }
        let both: Vec<_> = sides.values().filter(|of| of.len() == 2).collect();
        let same = both.iter().filter(|of| of[0] == of[1]).count();
        assert!(same <= 2, "{same} of {}", both.len());
    }
}

#[test]
fn repeats_come_swapped_and_never_at_once() {
    let ballots = arena(&["a", "b"], 40);
    let rules = Rules { repeats: 0.25, ..RULES };
    let shown = judge_all(&ballots, "ann", &rules);
    let repeats = shown.len() - 40;
    assert!((4..=25).contains(&repeats), "{repeats}");
    let votes = ballots.votes().unwrap();
    assert_eq!(votes.iter().filter(|vote| vote.again).count(), repeats);
    for (i, vote) in votes.iter().enumerate().filter(|(_, vote)| vote.again) {
        let first = votes[..i].iter().rposition(|v| v.prompt_id == vote.prompt_id).unwrap();
        assert!(i - first > 1 && !votes[first].again);
        assert_eq!((&votes[first].left, &votes[first].left_said), (&vote.right, &vote.right_said));
    }
}

#[test]
fn the_least_judged_pairs_come_first_and_a_limit_holds() {
    let ballots = arena(&["a", "b"], 6);
    let rules = Rules { judges_max: 2, ..RULES };
    for _ in 0..3 {
        let told = ballots.next("ann", &rules).unwrap();
        ballots.vote(&vote("ann", &told, 0)).unwrap();
    }
    let first: BTreeSet<i64> = ballots.votes().unwrap().iter().map(|v| v.prompt_id).collect();
    let seen: BTreeSet<i64> = (0..3)
        .map(|_| {
            let told = ballots.next("bob", &rules).unwrap();
            ballots.vote(&vote("bob", &told, 0)).unwrap();
            ballots.votes().unwrap().last().unwrap().prompt_id
        })
        .collect();
    assert!(first.is_disjoint(&seen));
    assert_eq!(
        (judge_all(&ballots, "ann", &rules).len(), judge_all(&ballots, "bob", &rules).len()),
        (3, 3)
    );
    assert_eq!(ballots.next("eve", &rules).unwrap()["pair"], Value::Null);
}

#[test]
fn a_pair_that_was_opened_and_left_is_given_to_another() {
    let ballots = arena(&["a", "b"], 1);
    let rules = Rules { judges_max: 1, ..RULES };
    let later = |ms: i64| {
        let aged =
            ballots.work(|db| Ok(db.execute("UPDATE arena_shows SET given = given - ?", [ms])?));
        aged.unwrap();
    };
    let told = ballots.next("ann", &rules).unwrap();
    assert_eq!(ballots.next("bob", &rules).unwrap()["pair"], Value::Null);
    later(59 * 60 * 1000);
    assert_eq!(ballots.next("bob", &rules).unwrap()["left"], 0);
    later(60 * 1000);
    let bobs = ballots.next("bob", &rules).unwrap();
    assert_eq!(bobs["pair"]["messages"], told["pair"]["messages"]);
    // One who cannot say has judged nothing; one who graded has, however long ago.
    ballots.vote(&Voted { grade: None, ..vote("bob", &bobs, 0) }).unwrap();
    later(2 * 60 * 60 * 1000);
    let eves = ballots.next("eve", &rules).unwrap();
    ballots.vote(&vote("eve", &eves, 2)).unwrap();
    later(2 * 60 * 60 * 1000);
    assert_eq!(ballots.next("dan", &rules).unwrap()["pair"], Value::Null);
}

#[test]
fn a_vote_is_given_once_by_whom_the_pair_was_shown_to() {
    let ballots = arena(&["a", "b"], 3);
    let told = ballots.next("ann", &RULES).unwrap();
    assert_eq!(ballots.next(" ann ", &RULES).unwrap()["pair"], told["pair"]);
    let good = vote("ann", &told, -2);
    for (bad, status) in [
        (Voted { judge: "bob".into(), ..good.clone() }, 404),
        (Voted { show: 99, ..good.clone() }, 404),
        (Voted { grade: Some(4), ..good.clone() }, 400),
        (Voted { seconds: f64::NAN, ..good.clone() }, 400),
        (Voted { seconds: -1.0, ..good.clone() }, 400),
        (Voted { edited: Some(" ".into()), ..good.clone() }, 400),
        (Voted { grade: Some(0), edited: Some("x".into()), ..good.clone() }, 400),
        (Voted { grade: None, follow: Some("x".into()), ..good.clone() }, 400),
        (Voted { judge: "x".repeat(41), ..good.clone() }, 400),
    ] {
        assert_eq!(refused(ballots.vote(&bad)), status, "{bad:?}");
    }
    assert!(ballots.votes().unwrap().is_empty());
    ballots.vote(&good).unwrap();
    ballots.vote(&good).unwrap();
    assert_eq!(refused(ballots.vote(&Voted { grade: Some(2), ..good })), 409);
    let votes = ballots.votes().unwrap();
    assert_eq!((votes.len(), votes[0].grade, votes[0].seconds), (1, Some(-2), 4.0));
    for name in ["", "  ", "a\nb"] {
        assert_eq!(refused(ballots.next(name, &RULES)), 400);
    }
}

#[test]
fn a_dialogue_goes_on_behind_the_better_answer_for_the_same_two_models() {
    let ballots = arena(&["a", "b", "c"], 1);
    let told = ballots.next("ann", &RULES).unwrap();
    let (edited, follow) = (Some("edited".to_owned()), Some("and then?".to_owned()));
    ballots.vote(&Voted { edited, follow, ..vote("ann", &told, -1) }).unwrap();
    let asked: Vec<usize> = (1..=3).map(|id| ballots.missing(id, 9).unwrap().len()).collect();
    assert_eq!(asked.iter().sum::<usize>(), 2, "{asked:?}");
    let grown = (1..=3).find_map(|id| ballots.missing(id, 9).unwrap().pop()).unwrap().prompt;
    let words: Vec<&str> = grown.messages.iter().map(|turn| turn.content.as_str()).collect();
    assert_eq!(words, ["question 0", "edited", "and then?"]);
    assert_eq!(ballots.next("bob", &RULES).unwrap()["unmade"], 2);
    fill(&ballots, &[1, 2, 3]);
    // It comes first for the one who went on.
    let told = ballots.next("ann", &RULES).unwrap();
    assert_eq!(told["pair"]["messages"][2]["content"], "and then?");
    ballots.vote(&vote("ann", &told, 3)).unwrap();
    let votes = ballots.votes().unwrap();
    assert_eq!((votes[1].root, votes[0].root), (votes[0].prompt_id, votes[0].prompt_id));
}

#[test]
fn dialogues_of_several_turns_are_shown_whole() {
    let ballots = Ballots::open(std::path::Path::new(":memory:")).unwrap();
    let ids = ballots.serve(&[contestant("a"), contestant("b")]).unwrap();
    ballots.add(&[Prompt { turns: vec!["second".to_owned()], ..prompt("x") }]).unwrap();
    fill(&ballots, &ids);
    let told = ballots.next("ann", &RULES).unwrap();
    let roles: Vec<&str> = told["pair"]["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["assistant", "user", "assistant"]);
}

#[test]
fn what_the_file_has_otherwise_is_named_and_stays() {
    let ballots = arena(&["a", "b"], 2);
    let other = Contestant { settings: json!({ "weights": "other" }), ..contestant("b") };
    let error = ballots.serve(&[contestant("a"), other]).unwrap_err().to_string();
    assert!(
        error.contains("\"b\"") && error.contains("weights was \"b\", is \"other\""),
        "{error}"
    );
    let changed = Prompt { skill: "reasoning".to_owned(), ..prompt("1") };
    assert!(ballots.add(&[changed]).unwrap_err().to_string().contains("the prompt \"1\""));
    ballots.fix("seed", "1").unwrap();
    ballots.fix("seed", "1").unwrap();
    assert!(ballots.fix("seed", "2").unwrap_err().to_string().contains("1, not 2"));
    // A pair is left: nothing of it was changed.
    assert!(!ballots.next("ann", &RULES).unwrap()["pair"].is_null());
}

#[test]
fn answers_that_never_began_are_not_shown() {
    let ballots = Ballots::open(std::path::Path::new(":memory:")).unwrap();
    let ids = ballots.serve(&[contestant("a"), contestant("b")]).unwrap();
    ballots.add(&[prompt("x")]).unwrap();
    let none = Answer { said: vec![String::new()], ended: "too_long".to_owned(), seed: 1 };
    ids.iter().for_each(|id| ballots.put(*id, 1, &none).unwrap());
    let told = ballots.next("ann", &RULES).unwrap();
    assert_eq!((&told["pair"], &told["unmade"]), (&Value::Null, &json!(0)));
}

#[test]
fn a_judge_that_is_a_model_is_asked_both_ways_round_once() {
    let ballots = arena(&["a", "b"], 3);
    let told = ballots.next("ann", &RULES).unwrap();
    ballots.vote(&vote("ann", &told, 3)).unwrap();
    let count = |judge, voted| ballots.unjudged_count(judge, voted).unwrap();
    let all = |judge, voted| ballots.unjudged(judge, voted, (0, 0, 0), 99).unwrap();
    assert_eq!((count("m", false), count("m", true)), (6, 2));
    assert_eq!((all("m", false).len(), all("m", true).len()), (6, 2));
    for pair in all("m", true) {
        ballots.say("m", &pair, Some(1), "A is slightly better").unwrap();
    }
    assert_eq!((count("m", true), ballots.verdicts().unwrap().len()), (0, 2));
    assert_eq!(count("other", true), 2);
}

#[test]
fn words_without_a_verdict_are_asked_for_again_but_once_in_a_round() {
    let ballots = arena(&["a", "b", "c"], 5);
    let round = |grade: Option<i8>| {
        let (mut after, mut asked) = ((0, 0, 0), Vec::new());
        loop {
            let piece = ballots.unjudged("m", false, after, 4).unwrap();
            let Some(last) = piece.last() else { return asked };
            after = last.place();
            for pair in piece {
                asked.push(pair.place());
                ballots.say("m", &pair, grade, "words").unwrap();
            }
        }
    };
    let first = round(None);
    assert!(first.len() == 30 && first.is_sorted_by(|a, b| a < b), "{first:?}");
    assert_eq!(round(Some(2)), first);
    assert_eq!((round(None), ballots.verdicts().unwrap().len()), (Vec::new(), 30));
}
