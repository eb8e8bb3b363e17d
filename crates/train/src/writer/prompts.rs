//! Prompts as templates in the language of Jinja: one a step, each with the names that it may use.

use crate::error::TrainError;
use herd_model::nearest;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;
use std::collections::BTreeMap;

/// A step's template where the settings bring none.
pub(crate) struct Default {
    pub step: &'static str,
    /// Names that it may use.
    pub names: &'static [&'static str],
    pub text: &'static str,
}

/// The prompt that stands before all steps; empty means none.
pub(crate) const SYSTEM: &str = "system";

/// Steps of a template's run at most: a loop without an end is an error.
const FUEL: u64 = 1_000_000;

/// The templates of a run.
#[derive(Debug)]
pub(crate) struct Prompts {
    environment: Environment<'static>,
    system: bool,
}

/// The texts of all steps, by their names.
pub(crate) fn texts(defaults: &[Default]) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<String, String> =
        defaults.iter().map(|d| (d.step.to_owned(), d.text.trim().to_owned())).collect();
    texts.insert(SYSTEM.to_owned(), String::new());
    texts
}

impl Prompts {
    /// Compiles the templates.
    ///
    /// Errors: one that is none, or that uses a name which its step does not have; the nearest is named.
    pub fn new(
        texts: &BTreeMap<String, String>,
        defaults: &[Default],
    ) -> Result<Prompts, TrainError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        let wrong = |step: &str, error: String| TrainError::Prompt { step: step.to_owned(), error };
        for (step, text) in texts {
            environment
                .add_template_owned(step.clone(), text.clone())
                .map_err(|e| wrong(step, e.to_string()))?;
            let names = defaults.iter().find(|d| d.step == step).map_or(&[][..], |d| d.names);
            let template = environment.get_template(step).expect("it was added");
            let mut used: Vec<String> = template.undeclared_variables(false).into_iter().collect();
            used.sort();
            let globals: Vec<&str> = environment.globals().map(|(name, _)| name).collect();
            let unknown = |name: &&String| {
                !names.contains(&name.as_str()) && !globals.contains(&name.as_str())
            };
            if let Some(name) = used.iter().find(unknown) {
                let near = nearest(name, names.iter().copied());
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                return Err(wrong(step, format!("it has nothing called {name:?}{hint}")));
            }
        }
        let system = texts.get(SYSTEM).is_some_and(|text| !text.trim().is_empty());
        Ok(Prompts { environment, system })
    }

    /// The words of a step. Errors: the template fails with these values.
    pub fn render(&self, step: &str, with: &Value) -> Result<String, TrainError> {
        let template = self.environment.get_template(step);
        let text = template.and_then(|template| template.render(with));
        let text =
            text.map_err(|e| TrainError::Prompt { step: step.to_owned(), error: e.to_string() })?;
        Ok(text.trim().to_owned())
    }

    /// The prompt before all steps, where there is one.
    pub fn system(&self) -> Result<Option<String>, TrainError> {
        self.system.then(|| self.render(SYSTEM, &Value::Null)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STEPS: &[Default] =
        &[Default { step: "ask", names: &["snippet"], text: "Ask of {{ snippet }}!" }];

    #[test]
    fn a_template_may_use_the_names_of_its_step_and_no_others() {
        let mut texts = texts(STEPS);
        let prompts = Prompts::new(&texts, STEPS).unwrap();
        // What stands in a value is text, whatever it spells.
        let said = prompts.render("ask", &json!({ "snippet": "{{ 1 }} <b>" })).unwrap();
        assert_eq!(said, "Ask of {{ 1 }} <b>!");
        assert_eq!(prompts.system().unwrap(), None);
        texts.insert("system".to_owned(), "Be brief.".to_owned());
        let prompts = Prompts::new(&texts, STEPS).unwrap();
        assert_eq!(prompts.system().unwrap().as_deref(), Some("Be brief."));
        texts.insert("ask".to_owned(), "{{ snipet }}".to_owned());
        let error = Prompts::new(&texts, STEPS).unwrap_err().to_string();
        assert!(error.contains("did you mean snippet?"), "{error}");
        texts.insert("ask".to_owned(), "{% for".to_owned());
        assert!(Prompts::new(&texts, STEPS).is_err());
        let endless =
            "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}";
        texts.insert("ask".to_owned(), endless.to_owned());
        let prompts = Prompts::new(&texts, STEPS).unwrap();
        assert!(prompts.render("ask", &json!({ "snippet": "" })).is_err());
    }
}
