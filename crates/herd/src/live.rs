//! The live view of training: a line a step, and on a terminal a small curve below that is redrawn.
//!
//! Everything but [`columns`] turns numbers into text; who calls it has the clock and the terminal.

use std::os::fd::AsFd;

use crate::console::{bytes, count};

/// What a step has to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLine {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Tokens read.
    pub tokens: u64,
    /// Nats a token.
    pub loss: f64,
    /// Bits a byte at the last validation, if there was one.
    pub bpb: Option<f64>,
    /// Norm of the gradient.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens a second.
    pub tok_s: f64,
    /// Share of the machine's measured peak.
    pub mfu: f64,
    /// The most memory so far.
    pub peak_bytes: u64,
    /// Share of the step in which it waited for data.
    pub data_wait_share: f64,
    /// Seconds to the end.
    pub eta_s: f64,
}

/// The step as one line without an end.
pub fn line(s: &StepLine) -> String {
    let width = s.steps.to_string().len();
    let mut text = format!("step {:>width$}/{}  loss {:.4}", s.step, s.steps, s.loss);
    if let Some(bpb) = s.bpb {
        text += &format!("  bpb {bpb:.4}");
    }
    text += &format!("  grad {:.3}  lr {}  {} tok/s", s.grad_norm, rate(s.lr), whole(s.tok_s));
    if s.mfu.is_finite() {
        text += &format!("  mfu {:.1} %", 100.0 * s.mfu);
    }
    text += &format!("  {}", bytes(s.peak_bytes));
    text += &format!("  data {:.0} %  eta {}", 100.0 * s.data_wait_share, duration(s.eta_s));
    text
}

/// `3e-4`, `2.95e-4`.
fn rate(lr: f64) -> String {
    let text = format!("{lr:.2e}");
    match text.split_once('e') {
        Some((digits, power)) if digits.contains('.') => {
            format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        Some(_) | None => text,
    }
}

fn whole(x: f64) -> String {
    match x.is_finite() {
        true => count(x.round() as u64),
        false => "?".to_owned(),
    }
}

/// `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`; `?` where it is not known.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// What has been shown, and what stands below it on a terminal.
#[derive(Debug)]
pub struct Live {
    terminal: bool,
    losses: Vec<(f64, f64)>,
    /// Lines of the curve that stand below the last line.
    drawn: usize,
}

/// Steps that the curve holds at most; then every other one goes, and the curve stays whole.
const POINTS_MAX: usize = 4096;
/// Lines of the curve.
const CURVE_LINES: usize = 6;

impl Live {
    /// A view that has shown nothing; `terminal` says whether a terminal shows it.
    pub fn new(terminal: bool) -> Live {
        Live { terminal, losses: Vec::new(), drawn: 0 }
    }

    /// What to write for a step, on a terminal `columns` wide: its line, and the curve redrawn.
    pub fn step(&mut self, step: &StepLine, columns: usize) -> String {
        if step.loss.is_finite() {
            self.losses.push((step.step as f64, step.loss));
        }
        if self.losses.len() > POINTS_MAX {
            let mut keep = false;
            self.losses.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.say(&line(step), columns)
    }

    /// What to write for any other line: it stands above the curve.
    ///
    /// `text` must hold no control characters but line ends.
    pub fn say(&mut self, text: &str, columns: usize) -> String {
        if !self.terminal {
            return format!("{text}\n");
        }
        let mut out = self.erase();
        for line in text.lines() {
            out += &cut(line, columns);
            out.push('\n');
        }
        let curve = match self.losses.len() {
            0 | 1 => Vec::new(),
            _ => curve(&self.losses, columns.saturating_sub(1).min(100), CURVE_LINES),
        };
        self.drawn = curve.len();
        for line in curve {
            out += &line;
            out.push('\n');
        }
        out
    }

    /// What to write before anything else may be printed: the curve goes.
    pub fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }
}

/// Columns of the terminal behind a stream; eighty where there is none.
pub fn columns(stream: &impl AsFd) -> usize {
    const LEAST: usize = 20;
    match terminal_size::terminal_size_of(stream.as_fd()) {
        Some((width, _)) => usize::from(width.0).max(LEAST),
        None => 80,
    }
}

/// A line that takes one row of the terminal, so that counting lines counts rows.
fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

/// The points as a curve of braille, `columns` wide with the scale at its left. At least one point,
/// all finite, in ascending order of x.
pub fn curve(points: &[(f64, f64)], columns: usize, lines: usize) -> Vec<String> {
    assert!(!points.is_empty(), "a curve has points");
    let least =
        |part: fn(&(f64, f64)) -> f64| points.iter().map(part).fold(f64::INFINITY, f64::min);
    let most =
        |part: fn(&(f64, f64)) -> f64| points.iter().map(part).fold(f64::NEG_INFINITY, f64::max);
    let (left, right, low, high) = (least(|p| p.0), most(|p| p.0), least(|p| p.1), most(|p| p.1));
    let scale = [number(high), number(low)];
    let margin = scale.iter().map(|text| text.chars().count()).max().unwrap_or(0) + 1;
    let (columns, lines) = (columns.saturating_sub(margin).max(2), lines.max(1));
    let mut canvas = Canvas::new(columns, lines);
    // Halves keep differences of the greatest numbers finite.
    let share = |v: f64, low: f64, high: f64| match high > low {
        true => (v / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0),
        false => 0.5,
    };
    let place = |(x, y): &(f64, f64)| {
        let across = share(*x, left, right) * (2 * columns - 1) as f64;
        (across.round(), ((1.0 - share(*y, low, high)) * (4 * lines - 1) as f64).round())
    };
    let mut from = place(&points[0]);
    for to in points.iter().map(place) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let steps = dx.abs().max(dy.abs()).max(1.0);
        for i in 0..=steps as usize {
            let part = i as f64 / steps;
            let dot = (from.0 + part * dx, from.1 + part * dy);
            canvas.dot(dot.0.round() as usize, dot.1.round() as usize);
        }
        from = to;
    }
    let label = |row: usize| match row {
        0 => scale[0].as_str(),
        row if row + 1 == lines => scale[1].as_str(),
        _ => "",
    };
    canvas
        .lines()
        .enumerate()
        .map(|(i, line)| format!("{:>w$} {line}", label(i), w = margin - 1))
        .collect()
}

/// A number of at most nine letters.
fn number(x: f64) -> String {
    match x.abs() {
        a if a == 0.0 || (1e-3..1e5).contains(&a) => format!("{x:.3}"),
        _ => format!("{x:.1e}"),
    }
}

/// Cells of two by four dots: Unicode's braille patterns.
struct Canvas {
    columns: usize,
    cells: Vec<u8>,
}

impl Canvas {
    fn new(columns: usize, lines: usize) -> Canvas {
        Canvas { columns, cells: vec![0; columns * lines] }
    }

    fn dot(&mut self, x: usize, y: usize) {
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        self.cells[y / 4 * self.columns + x / 2] |= BITS[y % 4][x % 2];
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let letter = |bits: &u8| char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' ');
        self.cells.chunks(self.columns).map(move |line| line.iter().map(letter).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: StepLine = StepLine {
        step: 20,
        steps: 2000,
        tokens: 81_920,
        loss: 7.25,
        bpb: Some(2.5),
        grad_norm: 1.25,
        lr: 3e-4,
        tok_s: 12_345.6,
        mfu: 0.312,
        peak_bytes: 512 << 20,
        data_wait_share: 0.014,
        eta_s: 3725.0,
    };

    #[test]
    fn a_step_is_one_line_with_what_is_known() {
        let told = "step   20/2000  loss 7.2500  bpb 2.5000  grad 1.250  lr 3e-4  12,346 tok/s  \
                    mfu 31.2 %  512.0 MiB  data 1 %  eta 1 h 02 min";
        assert_eq!(line(&STEP), told);
        let unknown = StepLine { bpb: None, mfu: f64::NAN, eta_s: f64::INFINITY, ..STEP };
        let told = line(&unknown);
        assert!(
            !told.contains("bpb") && !told.contains("mfu") && told.ends_with("eta ?"),
            "{told}"
        );
    }

    #[test]
    fn elsewhere_than_on_a_terminal_there_are_plain_lines_alone() {
        let mut live = Live::new(false);
        let out: String = (0..3).map(|_| live.step(&STEP, 80)).collect();
        assert_eq!(out, format!("{}\n", line(&STEP)).repeat(3));
        assert_eq!(live.say("saved", 80) + &live.erase(), "saved\n");
    }

    #[test]
    fn on_a_terminal_the_curve_is_taken_back_before_the_next_line() {
        let mut live = Live::new(true);
        let first = live.step(&STEP, 60);
        assert_eq!(first.lines().count(), 1, "one point is no curve");
        let second = live.step(&StepLine { step: 21, loss: 7.0, ..STEP }, 60);
        assert_eq!(second.lines().count(), 1 + CURVE_LINES);
        assert!(second.lines().all(|line| line.chars().count() < 60), "{second}");
        let third = live.say("a note\nof two lines", 60);
        assert!(third.starts_with("\x1b[6A\r\x1b[Ja note\nof two lines\n"), "{third:?}");
        assert_eq!((live.erase().as_str(), live.erase().as_str()), ("\x1b[6A\r\x1b[J", ""));
    }

    #[test]
    fn a_long_run_keeps_its_beginning_in_the_curve() {
        let mut live = Live::new(false);
        for step in 0..3 * POINTS_MAX as u64 {
            live.step(&StepLine { step, ..STEP }, 80);
        }
        assert!(live.losses.len() <= POINTS_MAX && live.losses[0].0 == 0.0);
        assert!(live.losses.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn a_falling_line_falls() {
        let points: Vec<(f64, f64)> = (0..8).map(|i| (f64::from(i), f64::from(7 - i))).collect();
        let drawn = curve(&points, 10, 2);
        assert_eq!(
            drawn,
            ["7.000 \u{2811}\u{2884}\u{2800}\u{2800}", "0.000 \u{2800}\u{2800}\u{2811}\u{2884}"]
        );
    }

    #[test]
    fn any_numbers_give_lines_of_one_width() {
        let far = f64::MAX;
        let cases: [&[(f64, f64)]; 4] = [
            &[(1.0, 2.0)],
            &[(1.0, 2.0), (2.0, 2.0)],
            &[(0.0, -far), (1.0, far)],
            &[(0.0, 1e-300), (1.8e19, 0.0)],
        ];
        for points in cases {
            for columns in [0, 1, 20, 200] {
                let drawn = curve(points, columns, 3);
                let widths: Vec<usize> = drawn.iter().map(|line| line.chars().count()).collect();
                assert!(widths.len() == 3 && widths.iter().all(|w| *w == widths[0]), "{drawn:?}");
            }
        }
    }
}
