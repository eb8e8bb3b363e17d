"""Records calc.json: questions to the calculator of agents, answered by Python's integers, fractions, mpmath and sympy.

    python testdata/record_calc.py        # pip install sympy==1.14.0, which brings mpmath
"""

import json
import math
import random
from fractions import Fraction
from pathlib import Path

import mpmath
import sympy

random.seed(20240726)
cases = []


def exact(ask, value):
    value = Fraction(value)
    text = str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
    cases.append({"ask": ask, "exact": text})


def near(ask, value, digits):
    text = mpmath.nstr(value, digits, strip_zeros=True, min_fixed=-7, max_fixed=max(digits, 15))
    text = text.replace("e+", "e").replace(".0e", "e")
    cases.append({"ask": f"{ask} to {digits} digits", "near": text[:-2] if text.endswith(".0") else text})


def fraction():
    return Fraction(random.randint(-999, 999), random.randint(1, 99))


for _ in range(60):
    a, b, c = fraction(), fraction(), fraction()
    for op, value in [("+", a + b * c), ("-", a - b * c)]:
        exact(f"({a}) {op} ({b})*({c})", value)
    if b:
        exact(f"({a}) / ({b}) - ({c})^3", a / b - c**3)
for _ in range(20):
    n, k = random.randint(2, 60), random.randint(2, 90)
    exact(f"{n}^{k}", n**k)
    exact(f"gcd({n * k}, {k * 7})", math.gcd(n * k, k * 7))
    exact(f"{n * 1000 + k} mod {k}", (n * 1000 + k) % k)
    exact(f"binomial({n + k}, {n})", math.comb(n + k, n))
    exact(f"{n}!", math.factorial(n))
    exact(f"sqrt({n * n}/{k * k})", Fraction(n, k))

functions = ["sqrt", "exp", "ln", "sin", "cos", "tan", "atan", "asin", "acos", "log10", "sinh", "cosh", "tanh", "cbrt", "log2"]
names = {"log2": lambda x: mpmath.log(x, 2), "ln": mpmath.log}
for name in functions:
    for _ in range(12):
        digits = random.choice([10, 15, 40, 120])
        mpmath.mp.dps = 2 * digits + 60
        high = 1 if name in ("asin", "acos") else random.choice([1, 10, 300])
        x = Fraction(random.randint(1, 10**6), 10**6) * high
        call = names.get(name, getattr(mpmath, name, None))
        if name in ("sqrt", "cbrt", "log2", "log10"):
            x += Fraction(1, 7)  # not a power
        if name in ("asin", "acos"):
            x = x * Fraction(99, 100)
        near(f"{name}({x})", call(mpmath.mpf(x.numerator) / x.denominator), digits)
mpmath.mp.dps = 1200
for digits in (15, 50, 1000):
    near("pi", mpmath.pi, digits)
    near("e", mpmath.e, digits)
    near("2^(1/3)", mpmath.cbrt(2), digits)
decimals = mpmath.nstr(mpmath.pi, 1100)[2:]
for place in (1, 2, 100, 762, 1000):
    cases.append({"ask": f"{place}th decimal of pi", "exact": decimals[place - 1]})

x = sympy.symbols("x")
for _ in range(20):
    p, q, r = random.randint(-12, 12), random.randint(-12, 12), random.randint(1, 9)
    roots = sorted(sympy.roots(r * (x - p) * (x - q), x))
    b, c = -r * (p + q), r * p * q
    answer = " or ".join(f"x = {root}" for root in roots)
    cases.append({"ask": f"solve {r}x^2 + ({b})x + ({c}) = 0", "text": answer})
for _ in range(20):
    p, q = random.randint(-9, 9), random.randint(-9, 9)
    a, b, c, d = (random.randint(1, 9) for _ in range(4))
    if a * d - b * c:
        cases.append({"ask": f"{a}x + {b}y = {a * p + b * q}, {c}x + {d}y = {c * p + d * q}", "text": f"x = {p}, y = {q}"})
# Derivatives are compared by value, since there are many ways to write them.
for text in ["x^5 - 3x^2 + 7", "x^2*sin(x)", "exp(2x)/x", "sqrt(x^2 + 1)", "ln(cos(x) + 2)", "x^x", "tan(x)^2", "atan(3x)"]:
    value = sympy.diff(sympy.sympify(text.replace("2x", "2*x").replace("3x", "3*x").replace("^", "**").replace("ln", "log")), x)
    at = value.subs(x, sympy.Rational(3, 4)).evalf(60)
    cases.append({"ask": text, "derivative": mpmath.nstr(mpmath.mpf(str(at)), 25)})

Path(__file__).with_name("calc.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
