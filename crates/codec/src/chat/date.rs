//! A calendar date, written as `strftime` writes it; the clock is the caller's.

use super::ChatError;

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// A date, or `None` if there is no such day.
    pub const fn new(year: u16, month: u8, day: u8) -> Option<Date> {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if day == 0 || day > days || year == 0 || year > 9999 {
            return None;
        }
        Some(Date { year, month, day })
    }

    /// Reads `2024-07-26`.
    pub fn parse(text: &str) -> Option<Date> {
        let mut parts = text.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let none_left = parts.next().is_none();
        let date = Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        date.filter(|_| none_left)
    }

    /// `26 Jul 2024`, the form in Llama's system messages.
    pub fn short(self) -> String {
        self.format("%d %b %Y").expect("the three directives are known")
    }

    /// Formats by `strftime` directives of days; those of hours or unknown ones are errors.
    pub fn format(self, format: &str) -> Result<String, ChatError> {
        let month = MONTHS[usize::from(self.month) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => out.push('%'),
                Some('Y') => out += &format!("{:04}", self.year),
                Some('y') => out += &format!("{:02}", self.year % 100),
                Some('m') => out += &format!("{:02}", self.month),
                Some('d') => out += &format!("{:02}", self.day),
                Some('F') => out += &format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('B') => out += month,
                Some('b' | 'h') => out += &month[..3],
                Some('A') => out += weekday,
                Some('a') => out += &weekday[..3],
                _ => return Err(ChatError::DateFormat { format: format.to_string() }),
            }
        }
        Ok(out)
    }

    /// Days after Sunday (Sakamoto's method).
    fn weekday(self) -> usize {
        const OFFSET: [usize; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let (month, day) = (usize::from(self.month), usize::from(self.day));
        let year = usize::from(self.year) - usize::from(month < 3);
        (year + year / 4 - year / 100 + year / 400 + OFFSET[month - 1] + day) % 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_strftime_writes_them() {
        let date = Date::parse("2024-07-26").unwrap();
        assert_eq!(date.short(), "26 Jul 2024");
        assert_eq!(
            date.format("%A %B %y %a %F 100%%").unwrap(),
            "Friday July 24 Fri 2024-07-26 100%"
        );
        assert_eq!(Date::new(2000, 2, 29).unwrap().format("%a").unwrap(), "Tue");
        assert!(date.format("%H").is_err() && date.format("%").is_err());
    }

    #[test]
    fn days_that_do_not_exist_are_none() {
        for text in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-00-10", "2024-1", "x", "0-1-1"]
        {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
