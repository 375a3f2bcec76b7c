//! Means with their confidence: of a change, and of a difference between two groups.
//!
//! The interval of a mean is Student's (*The Probable Error of a Mean*, Biometrika 6, 1908). The difference of two groups whose spreads differ is Welch's
//! (*The Generalization of "Student's" Problem when Several Different Population Variances are Involved*, Biometrika 34, 1947), with the degrees of freedom of
//! Welch and Satterthwaite. Both for 95 %.

/// A value and the interval that holds it in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Estimate {
    fn new(value: f64, error: f64, freedom: f64) -> Self {
        let reach = student(freedom) * error;
        Self { value, low: value - reach, high: value + reach }
    }
}

/// Numbers, summed up one by one (B. P. Welford, Technometrics 4, 1962).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Sample {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        values.filter(|value| value.is_finite()).fold(Self::default(), |mut sample, value| {
            sample.count += 1.0;
            let off = value - sample.mean;
            sample.mean += off / sample.count;
            sample.squares += off * (value - sample.mean);
            sample
        })
    }

    /// The mean; none of nothing.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then_some(self.mean)
    }

    /// The square of the mean's standard error.
    fn error_squared(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }

    /// The mean with its interval; none of fewer than two.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        (self.count >= 2.0).then(|| Estimate::new(self.mean, self.error_squared().sqrt(), self.count - 1.0))
    }

    /// How much higher the mean of this one is than that of the other; none when either has fewer than two.
    pub(super) fn less(&self, other: &Self) -> Option<Estimate> {
        if self.count < 2.0 || other.count < 2.0 {
            return None;
        }
        let (own, others) = (self.error_squared(), other.error_squared());
        let error = own + others;
        let freedom = if error > 0.0 {
            error.powi(2) / (own.powi(2) / (self.count - 1.0) + others.powi(2) / (other.count - 1.0))
        } else {
            self.count + other.count - 2.0
        };
        Some(Estimate::new(self.mean - other.mean, error.sqrt(), freedom))
    }
}

/// The 97.5 % point of Student's distribution. From three degrees of freedom on by the expansion 26.7.5 of Abramowitz and Stegun (*Handbook of
/// Mathematical Functions*), right to a hundredth; below, the next lower whole number's, which is wider.
fn student(freedom: f64) -> f64 {
    if freedom < 2.0 {
        return 12.706;
    }
    if freedom < 3.0 {
        return 4.303;
    }
    let z = 1.959_964_f64;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
        (79.0 * z.powi(9) + 776.0 * z.powi(7) + 1_482.0 * z.powi(5) - 1_920.0 * z.powi(3) - 945.0 * z)
            / 92_160.0,
    ];
    let mut power = 1.0;
    terms.iter().fold(z, |sum, term| {
        power *= freedom;
        sum + term / power
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_points_are_those_of_the_tables() {
        for (freedom, point) in [
            (1.0, 12.706),
            (2.0, 4.303),
            (3.0, 3.182),
            (4.0, 2.776),
            (5.0, 2.571),
            (10.0, 2.228),
            (30.0, 2.042),
        ] {
            assert!((student(freedom) - point).abs() < 0.011, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn welchs_difference_is_that_of_the_textbook() {
        // Two samples of a worked example: variances 7.14 and 0.82, 27.55 degrees of freedom for 15 and 15 values.
        let first =
            [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4];
        let second =
            [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5, 24.5];
        let found = Sample::of(first.into_iter()).less(&Sample::of(second.into_iter())).unwrap();
        assert!((found.value + 2.84).abs() < 0.01, "{found:?}");
        assert!(found.low < -4.7 && found.high > -1.2 && found.high < -0.6, "{found:?}");
    }

    #[test]
    fn too_few_values_say_nothing() {
        let one = Sample::of([1.0].into_iter());
        assert_eq!((one.mean(), one.estimate(), one.less(&one)), (Some(1.0), None, None));
        assert_eq!(Sample::of([f64::NAN].into_iter()).mean(), None);
        let same = Sample::of([2.0, 2.0, 2.0].into_iter()).estimate().unwrap();
        assert!((same.low - 2.0).abs() < 1e-12 && (same.high - 2.0).abs() < 1e-12);
    }
}
