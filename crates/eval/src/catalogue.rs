//! The benchmarks that come with Herd: a page each, in `tasks/`.

use std::path::Path;

use crate::error::EvalError;
use crate::task::Task;
use crate::yaml;

macro_rules! pages {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../tasks/", $name, ".toml")))),*] };
}

/// Names and pages.
const PAGES: [(&str, &str); 81] = pages![
    "adversarial_squad",
    "agieval_lsat_ar",
    "agieval_lsat_lr",
    "agieval_lsat_rc",
    "agieval_sat_en",
    "agieval_sat_math",
    "api_bank",
    "aqua",
    "arc_challenge",
    "arc_easy",
    "bbh",
    "bfcl_irrelevance",
    "bfcl_live_irrelevance",
    "bfcl_live_multiple",
    "bfcl_live_parallel",
    "bfcl_live_parallel_multiple",
    "bfcl_live_relevance",
    "bfcl_live_simple",
    "bfcl_multiple",
    "bfcl_parallel",
    "bfcl_parallel_multiple",
    "bfcl_simple",
    "boolq",
    "commonsense_qa",
    "drop",
    "dynabench_squad",
    "gpqa",
    "gpqa_cot",
    "gsm8k",
    "gsm_plus",
    "hellaswag",
    "humaneval",
    "humaneval_instruct",
    "humaneval_plus",
    "humaneval_plus_instruct",
    "ifeval",
    "infinitebench_en_mc",
    "infinitebench_en_qa",
    "lambada",
    "math",
    "mbpp",
    "mbpp_plus",
    "mgsm",
    "mgsm_cot",
    "mmlu",
    "mmlu_cot",
    "mmlu_pro",
    "multipl_e_cpp",
    "multipl_e_cs",
    "multipl_e_java",
    "multipl_e_js",
    "multipl_e_lua",
    "multipl_e_php",
    "multipl_e_pl",
    "multipl_e_rb",
    "multipl_e_rs",
    "multipl_e_sh",
    "multipl_e_ts",
    "needle",
    "nexus",
    "openbookqa",
    "paws",
    "piqa",
    "pubmedqa",
    "qqp",
    "quac",
    "quality",
    "race",
    "siqa",
    "squad",
    "svamp",
    "triviaqa",
    "truthfulqa",
    "winograd",
    "winogrande",
    "xcopa_it",
    "xcopa_th",
    "xquad",
    "zeroscrolls_qasper",
    "zeroscrolls_quality",
    "zeroscrolls_squality",
];

/// All of them, by their names.
pub fn all() -> Vec<Task> {
    let read = |(name, page): &(&str, &str)| Task::parse(page, name).expect("a test reads all");
    PAGES.iter().map(read).collect()
}

/// The task of a name, or of a file with a page.
///
/// Errors: there is none; a file that cannot be read, or is none.
pub fn find(name: &str) -> Result<Task, EvalError> {
    if let Some((_, page)) = PAGES.iter().find(|(own, _)| *own == name) {
        return Task::parse(page, name);
    }
    let path = Path::new(name);
    let ending = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
    if ["toml", "yaml", "yml"].contains(&ending) {
        let page = std::fs::read_to_string(path).map_err(EvalError::io("read", path))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        return if ending == "toml" {
            Task::parse(&page, name)
        } else {
            yaml::task(&page, name, folder)
        };
    }
    let near = herd_model::nearest(name, PAGES.iter().map(|(name, _)| *name)).map(str::to_owned);
    Err(EvalError::Unknown { name: name.to_owned(), near })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_a_task_of_its_own_name() {
        for (task, (name, _)) in all().iter().zip(PAGES) {
            assert_eq!(task.name, name);
            assert!(!task.citation.is_empty() && !task.about.is_empty());
        }
        let error = find("helaswag").unwrap_err().to_string();
        assert!(error.contains("hellaswag"), "{error}");
    }
}
