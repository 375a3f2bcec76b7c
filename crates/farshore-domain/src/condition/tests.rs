use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::reconcile::MonoMs;

fn vocabulary() -> Vocabulary {
    Vocabulary::new()
        .variable("devices.failed", Type::Number)
        .variable("devices.reported", Type::Number)
        .variable("soaked", Type::Duration)
        .variable("model", Type::Text)
        .variable("online", Type::Bool)
        .function_with_optional(
            "metric",
            vec![
                Param::OneOf(vec!["cpu_ratio".to_owned(), "memory_ratio".to_owned()]),
                Param::Of(Type::Duration),
            ],
            1,
            Type::Number,
        )
}

#[derive(Default)]
struct World(BTreeMap<&'static str, Value>);

impl World {
    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.insert(name, value.into());
        self
    }
}

impl Facts for World {
    fn variable(&self, name: &str) -> Result<Value, Missing> {
        self.0.get(name).cloned().ok_or_else(|| Missing(format!("{name} was not reported")))
    }

    fn call(&self, _: &str, arguments: &[Value]) -> Result<Value, Missing> {
        match arguments.first() {
            Some(Value::Text(name)) => self.variable(name),
            _ => Err(Missing("no name".to_owned())),
        }
    }
}

fn judge(text: &str, world: &World) -> Verdict {
    Condition::compile(text, &vocabulary()).unwrap_or_else(|e| panic!("{text}: {e}")).evaluate(world)
}

fn wrong(text: &str) -> String {
    Condition::compile(text, &vocabulary()).expect_err(text).what
}

#[test]
fn it_compares_calculates_and_searches() {
    let world = World::default()
        .with("devices.failed", 3.0)
        .with("devices.reported", 10.0)
        .with("soaked", Value::Duration(90_000))
        .with("model", "pi-5")
        .with("online", true)
        .with("cpu_ratio", 0.95);
    for (text, yes) in [
        ("devices.failed / devices.reported >= 0.3", true),
        ("devices.failed * 10 > devices.reported * 3", false),
        ("devices.failed % 2 == 1", true),
        ("soaked >= duration(\"1m30s\")", true),
        ("soaked > duration(\"0d1m30s500ms\") - duration(\"500ms\")", false),
        ("model.startsWith(\"pi-\") && !model.endsWith(\"4\") && model.contains(\"-\")", true),
        ("model in [\"pi-4\", \"pi-5\"]", true),
        ("devices.failed in [1, 2.0, 4u]", false),
        ("online ? metric(\"cpu_ratio\", duration(\"5m\")) > 0.9 : false", true),
        ("-devices.failed < 0 && max(devices.failed, 5) == 5 && min(devices.failed, 5) == 3", true),
    ] {
        assert_eq!(judge(text, &world).is_true(), yes, "{text}");
    }
}

#[test]
fn missing_data_is_unknown_and_never_false() {
    let world = World::default().with("devices.failed", 0.0).with("devices.reported", 0.0);
    let unknown = |text: &str, why: &str| match judge(text, &world) {
        Verdict::Unknown(reason) => assert!(reason.contains(why), "{text}: {reason}"),
        verdict => panic!("{text}: {verdict:?}"),
    };
    unknown("metric(\"cpu_ratio\") > 0.9", "cpu_ratio was not reported");
    unknown("!(metric(\"cpu_ratio\") > 0.9)", "cpu_ratio");
    unknown("devices.failed / devices.reported > 0.3", "divides by zero");
    unknown("online && devices.failed == 0", "online");
    unknown("online ? true : false", "online");
    unknown("model in [\"a\"]", "model");
    // What one side decides alone does not need the other.
    assert_eq!(judge("online && devices.failed > 0", &world), Verdict::False);
    assert_eq!(judge("online || devices.failed == 0", &world), Verdict::True);
    assert_eq!(judge("devices.failed == 0 || online", &world), Verdict::True);
    // And it can be asked for.
    assert_eq!(judge("known(metric(\"cpu_ratio\"))", &world), Verdict::False);
    assert_eq!(judge("has(devices.failed)", &world), Verdict::True);
}

#[test]
fn values_that_are_none_count_as_missing() {
    let nan = World::default().with("devices.failed", f64::NAN).with("online", "yes");
    assert!(matches!(judge("devices.failed > 0", &nan), Verdict::Unknown(_)));
    assert!(matches!(judge("online", &nan), Verdict::Unknown(_)));
    let large = World::default().with("devices.failed", f64::MAX);
    assert!(matches!(judge("devices.failed * 10 > 0", &large), Verdict::Unknown(_)));
}

#[test]
fn errors_name_what_is_wrong_and_the_fix() {
    for (text, part) in [
        ("", "empty"),
        ("devices.fialed > 1", "did you mean \"devices.failed\"?"),
        ("devcies > 1", "unknown name \"devcies\""),
        ("metrc(\"cpu_ratio\") > 1", "did you mean \"metric\"?"),
        ("metric(\"cpu_ration\") > 1", "did you mean \"cpu_ratio\"?"),
        ("metric(model) > 1", "written out in quotes"),
        ("metric > 1", "it is a function"),
        ("online() == true", "leave the brackets away"),
        ("metric() > 1", "takes 1 to 2 arguments, not 0"),
        ("devices.failed > \"3\"", "needs a number, this is a text"),
        ("devices.failed", "gives a number"),
        ("online > false", "no order"),
        ("model + \"a\" == \"b\"", "can't be calculated"),
        ("soaked > 5", "needs a duration, this is a number"),
        ("soaked > duration(\"5 minutes\")", "1h30m"),
        ("soaked > duration(\"9999999d\")", "366 days"),
        ("[1, 2].all(x, x > devices.failed)", "no loops"),
        ("model in []", "never true"),
        ("model.matches(\"a+\")", "unknown method \"matches\""),
        ("1 < 2", "never changes"),
        ("null == null", "null"),
        ("{\"a\": 1} == {\"a\": 1}", "maps"),
        ("devices[\"failed\"] > 1", "indexes"),
        ("devices.failed >", "line 1"),
        ("devices.failed > 1e999", "invalid double"),
    ] {
        let what = wrong(text);
        assert!(what.contains(part), "{text:?} says {what:?}");
    }
}

#[test]
fn hostile_texts_are_refused_before_they_cost_anything() {
    assert!(wrong(&"a".repeat(MAX_TEXT + 1)).contains("bytes"));
    assert!(wrong(&format!("{}online{}", "(".repeat(200), ")".repeat(200))).contains("levels"));
    assert!(wrong(&format!("{}online", "!".repeat(1000))).contains("levels"));
    assert!(wrong(&format!("{}online", "! ".repeat(900))).contains("levels"));
    assert!(wrong(&format!("{}true", "online ? true : ".repeat(100))).contains("levels"));
    assert!(wrong(&format!("0{} > 1", "+devices.failed".repeat(100))).contains("levels"));
    assert!(wrong(&format!("model in [{}]", "\"a\",".repeat(300))).contains("parts"));
    // Long chains of one operator are what people write, and are fine.
    let chain = vec!["devices.failed > 1"; 40].join(" || ");
    assert!(Condition::compile(&chain, &vocabulary()).is_ok());
}

#[test]
fn a_driver_learns_what_to_load() {
    let text = "metric(\"cpu_ratio\", soaked) > 0.9 && devices.failed > 0";
    let condition = Condition::compile(text, &vocabulary()).expect("compiles");
    assert_eq!(condition.variables(), ["soaked", "devices.failed"]);
    assert_eq!(condition.calls(), [("metric", vec![Some(Value::from("cpu_ratio")), None])]);
    assert_eq!(condition.to_string(), text);
}

#[test]
fn for_counts_only_time_that_was_seen() {
    let unknown = Verdict::Unknown("no data".to_owned());
    let mut held = Held::default();
    let at = |seconds: i64| MonoMs(seconds * 1000);
    assert!(!held.observe(&unknown, at(0), 10_000));
    assert!(!held.observe(&Verdict::True, at(10), 10_000), "the time before the first look does not count");
    assert!(!held.observe(&Verdict::True, at(16), 10_000));
    assert!(!held.observe(&unknown, at(18), 10_000));
    assert!(!held.observe(&Verdict::True, at(19), 10_000), "a gap is not counted");
    assert!(held.observe(&Verdict::True, at(23), 10_000), "6 and 4 seconds");
    assert!(!held.observe(&Verdict::False, at(24), 10_000));
    assert!(!held.observe(&Verdict::True, at(25), 10_000), "false starts anew");
    // A gap longer than what was seen leaves nothing.
    let mut held = Held::default();
    held.observe(&Verdict::True, at(0), 10_000);
    held.observe(&Verdict::True, at(6), 10_000);
    held.observe(&unknown, at(7), 10_000);
    held.observe(&unknown, at(20), 10_000);
    held.observe(&Verdict::True, at(21), 10_000);
    assert!(!held.observe(&Verdict::True, at(26), 10_000));
    assert!(held.observe(&Verdict::True, at(31), 10_000));
    // None needed: the first look suffices.
    assert!(Held::default().observe(&Verdict::True, at(0), 0));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        if let Ok(condition) = Condition::compile(&text, &vocabulary()) {
            let _ = condition.evaluate(&World::default());
        }
    }

    #[test]
    fn no_mix_of_its_own_words_makes_it_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "(", ")", "[", "]", "{", "}", "!", "-", "&&", "||", "?", ":", ",", ".", "==", "<", "in", "+", "/", "%",
            "devices.failed", "metric", "\"cpu_ratio\"", "online", "soaked", "duration", "\"5m\"", "known", "has",
            "1", "0", "true", "all", "x", "model", ".contains", "null", "b\"a\"", "'", "\"", "\\",
        ]), 0..40)
    ) {
        if let Ok(condition) = Condition::compile(&words.join(" "), &vocabulary()) {
            let _ = condition.evaluate(&World::default().with("devices.failed", 0.0));
        }
    }
}
