//! Formulas in LaTeX, compared by their values: letters stand for numbers, at several places.

/// Places where formulas are compared; letters get values of their own at each.
const PLACES: u32 = 4;
/// How deep formulas may be nested.
const DEPTH: usize = 64;

/// Whether both are formulas, and have the same values.
pub fn equal(a: &str, b: &str) -> bool {
    let (Some(a), Some(b)) = (tokens(a), tokens(b)) else { return false };
    (0..PLACES).all(|place| match (value(&a, place), value(&b, place)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1e-3),
        _ => false,
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Number(f64),
    /// A letter, or the name of one.
    Letter(String),
    /// A function, a fraction, a root.
    Command(String),
    Sign(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let chars: Vec<char> = text.chars().collect();
    let run = |from: usize, take: fn(&char) -> bool| -> String {
        chars[from..].iter().take_while(|c| take(c)).collect()
    };
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        match chars[at] {
            ' ' => at += 1,
            '\\' => {
                let name = run(at + 1, char::is_ascii_alphabetic);
                at += 1 + name.len();
                match name.as_str() {
                    "left" | "right" => {}
                    "cdot" | "times" => tokens.push(Token::Sign('*')),
                    "div" => tokens.push(Token::Sign('/')),
                    "frac" | "dfrac" | "tfrac" => tokens.push(Token::Command("frac".to_owned())),
                    "sqrt" | "sin" | "cos" | "tan" | "ln" | "log" => {
                        tokens.push(Token::Command(name));
                    }
                    "pi" | "theta" | "alpha" | "beta" | "gamma" | "phi" | "omega" | "lambda" => {
                        tokens.push(Token::Letter(name));
                    }
                    _ => return None,
                }
            }
            c if c.is_ascii_digit() || c == '.' => {
                let digits = run(at, |c| c.is_ascii_digit() || *c == '.');
                at += digits.len();
                tokens.push(Token::Number(digits.parse().ok()?));
            }
            c if c.is_ascii_alphabetic() => {
                at += 1;
                let mut name = c.to_string();
                if chars.get(at) == Some(&'_') {
                    // A letter with an index is another letter.
                    let index = chars.get(at + 1).filter(|c| c.is_ascii_alphanumeric())?;
                    name.extend(['_', *index]);
                    at += 2;
                }
                tokens.push(Token::Letter(name));
            }
            c if "+-*/^(){}[]|!".contains(c) => {
                at += 1;
                tokens.push(Token::Sign(c));
            }
            _ => return None,
        }
    }
    Some(tokens)
}

/// What a formula is worth at a place; nothing if it is none, or has no value there.
fn value(tokens: &[Token], place: u32) -> Option<f64> {
    let mut reader = Reader { tokens, at: 0, place, depth: 0 };
    let value = reader.sum()?;
    (reader.at == tokens.len() && value.is_finite()).then_some(value)
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    place: u32,
    depth: usize,
}

impl Reader<'_> {
    fn sign(&self) -> Option<char> {
        match self.tokens.get(self.at) {
            Some(Token::Sign(c)) => Some(*c),
            _ => None,
        }
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        (self.sign()? == wanted).then(|| self.at += 1)
    }

    fn sum(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        let mut sum = self.product()?;
        while let Some(sign @ ('+' | '-')) = self.sign() {
            self.at += 1;
            let term = self.product()?;
            sum += if sign == '+' { term } else { -term };
        }
        self.depth -= 1;
        Some(sum)
    }

    fn product(&mut self) -> Option<f64> {
        let mut signs = 1.0;
        while let Some(sign @ ('+' | '-')) = self.sign() {
            self.at += 1;
            signs *= if sign == '-' { -1.0 } else { 1.0 };
        }
        let mut product = self.power()?;
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Sign('*')) => {
                    self.at += 1;
                    product *= self.signed()?;
                }
                Some(Token::Sign('/')) => {
                    self.at += 1;
                    product /= self.signed()?;
                }
                Some(Token::Sign('(' | '{' | '[') | Token::Letter(_) | Token::Command(_)) => {
                    product *= self.power()?;
                }
                Some(Token::Number(_)) => product *= self.power()?,
                Some(Token::Sign(_)) | None => return Some(signs * product),
            }
        }
    }

    fn signed(&mut self) -> Option<f64> {
        match self.sign() {
            Some('-') => {
                self.at += 1;
                Some(-self.power()?)
            }
            _ => self.power(),
        }
    }

    fn power(&mut self) -> Option<f64> {
        let mut base = self.atom()?;
        loop {
            match self.sign() {
                Some('!') => {
                    self.at += 1;
                    let whole = base.fract() == 0.0 && (0.0..=20.0).contains(&base);
                    base = whole.then(|| (1..=base as u64).product::<u64>() as f64)?;
                }
                Some('^') => {
                    self.at += 1;
                    let exponent =
                        if self.sign() == Some('{') { self.group('{', '}') } else { self.digit() };
                    return Some(base.powf(exponent?));
                }
                _ => return Some(base),
            }
        }
    }

    /// What an operator without braces takes: one digit, or one letter.
    fn digit(&mut self) -> Option<f64> {
        match self.tokens.get(self.at)? {
            Token::Number(n) if *n < 10.0 && n.fract() == 0.0 => {
                self.at += 1;
                Some(*n)
            }
            Token::Letter(_) => self.atom(),
            _ => None,
        }
    }

    fn group(&mut self, open: char, close: char) -> Option<f64> {
        self.take(open)?;
        let value = self.sum()?;
        self.take(close)?;
        Some(value)
    }

    fn atom(&mut self) -> Option<f64> {
        match self.tokens.get(self.at)?.clone() {
            Token::Number(n) => {
                self.at += 1;
                Some(n)
            }
            Token::Letter(name) => {
                self.at += 1;
                Some(self.letter(&name))
            }
            Token::Sign('(') => self.group('(', ')'),
            Token::Sign('{') => self.group('{', '}'),
            Token::Sign('[') => self.group('[', ']'),
            Token::Sign(_) => None,
            Token::Command(name) => {
                self.at += 1;
                self.command(&name)
            }
        }
    }

    fn command(&mut self, name: &str) -> Option<f64> {
        if name == "frac" {
            let above = self.group('{', '}')?;
            return Some(above / self.group('{', '}')?);
        }
        if name == "sqrt" {
            let index = if self.sign() == Some('[') { self.group('[', ']')? } else { 2.0 };
            let of = self.group('{', '}')?;
            return Some(if index == 2.0 { of.sqrt() } else { of.powf(1.0 / index) });
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return None;
        }
        let of = self.power()?;
        self.depth -= 1;
        Some(match name {
            "sin" => of.sin(),
            "cos" => of.cos(),
            "tan" => of.tan(),
            _ => of.ln(),
        })
    }

    /// A letter's number at this place: above one, and no simple one.
    fn letter(&self, name: &str) -> f64 {
        if name == "pi" {
            return std::f64::consts::PI;
        }
        let key = name.bytes().fold(u64::from(self.place) + 1, |key, byte| {
            (key ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        1.1 + (key >> 11) as f64 / (1u64 << 53) as f64
    }
}
