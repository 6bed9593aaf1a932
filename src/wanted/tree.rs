//! A document as a tree: what JSON and YAML have in common, as far as images stand in it.
//!
//! YAML's aliases and merge keys (`<<`) are followed, and tags are left out. What a document
//! unfolds to is bounded by its size, so that no text of some lines becomes gigabytes.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// What a value costs besides its text; about the bytes that it takes in memory.
const VALUE_COST: usize = 32;

/// Cost of the documents of a file, however large it is.
const COST_MAX: usize = 320 << 20;

/// What a small document may cost above `VALUE_COST` for each of its bytes.
const COST_MIN: usize = 256 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Nothing,
    Text(String),
    /// Numbers, and true and false.
    Other,
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// Reads one YAML document.
    ///
    /// # Errors
    /// Those of the parser, and that it unfolds to too much.
    pub(super) fn of_yaml(text: &str) -> Result<Self, serde_yaml::Error> {
        let cost = Cost::of(text);
        TreeReader { cost: &cost }.deserialize(serde_yaml::Deserializer::from_str(text))
    }

    /// The value of a key, if this is a map.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => {
                entries.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            Self::Nothing | Self::Text(_) | Self::Other | Self::List(_) => None,
        }
    }
}

/// What a text may still unfold to.
#[derive(Debug)]
pub(super) struct Cost {
    left: Cell<usize>,
}

impl Cost {
    pub(super) fn of(text: &str) -> Self {
        let most = text.len().saturating_mul(VALUE_COST).saturating_add(COST_MIN);
        Self { left: Cell::new(most.min(COST_MAX)) }
    }

    fn pay<E: Error>(&self, text: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(VALUE_COST + text);
        let left = left.ok_or_else(|| E::custom("it is too much when its aliases are followed"))?;
        self.left.set(left);
        Ok(())
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
pub(super) struct TreeReader<'c> {
    pub(super) cost: &'c Cost,
}

impl TreeReader<'_> {
    fn leaf<E: Error>(self, tree: Tree) -> Result<Tree, E> {
        self.cost.pay(0).map(|()| tree)
    }
}

impl<'de> DeserializeSeed<'de> for TreeReader<'_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TreeReader<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        self.leaf(Tree::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        self.leaf(Tree::Nothing)
    }

    fn visit_bool<E: Error>(self, _flag: bool) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_i64<E: Error>(self, _number: i64) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_u64<E: Error>(self, _number: u64) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_i128<E: Error>(self, _number: i128) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_u128<E: Error>(self, _number: u128) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_f64<E: Error>(self, _number: f64) -> Result<Tree, E> {
        self.leaf(Tree::Other)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tree, E> {
        self.cost.pay(text.len())?;
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        self.cost.pay(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        self.cost.pay(0)?;
        let (mut map, mut is_object) = (Vec::new(), false);
        while let Some(key) = entries.next_key_seed(self)? {
            let key = match key {
                Tree::Text(text) => text,
                Tree::Nothing | Tree::Other | Tree::List(_) | Tree::Map(_) => "?".to_owned(),
            };
            is_object |= key == "kind";
            // Most of what kubectl writes of a pod, and never looked at.
            if is_object && matches!(key.as_str(), "metadata" | "status") {
                entries.next_value::<IgnoredAny>()?;
            } else {
                map.push((key, entries.next_value_seed(self)?));
            }
        }
        Ok(Tree::Map(merged(map)))
    }

    /// A value with a tag, as compose's `!override`.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Tree, A::Error> {
        let (_tag, value) = tagged.variant::<String>()?;
        value.newtype_variant_seed(self)
    }
}

/// The entries, and behind them those of the maps under `<<` whose keys are not among them. The
/// first map counts that has a key (yaml.org/type/merge).
fn merged(map: Vec<(String, Tree)>) -> Vec<(String, Tree)> {
    if map.iter().all(|(key, _)| key != "<<") {
        return map;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| key == "<<");
    let mut keys: HashSet<String> = own.iter().map(|(key, _)| key.clone()).collect();
    let maps = merges.into_iter().flat_map(|(_, value)| match value {
        Tree::List(maps) => maps,
        one @ (Tree::Nothing | Tree::Text(_) | Tree::Other | Tree::Map(_)) => vec![one],
    });
    for map in maps {
        let Tree::Map(entries) = map else { continue };
        own.extend(entries.into_iter().filter(|(key, _)| keys.insert(key.clone())));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In short: texts as they are, lists in brackets, maps in braces.
    fn shown(tree: &Tree) -> String {
        match tree {
            Tree::Nothing => "~".to_owned(),
            Tree::Text(text) => text.clone(),
            Tree::Other => "#".to_owned(),
            Tree::List(items) => {
                format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(","))
            }
            Tree::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
        }
    }

    #[test]
    fn aliases_and_merges_are_followed_and_tags_left_out() {
        for (yaml, tree) in [
            ("# nothing", "~"),
            ("[1, -1, 1.5, true, ~, x, '1', 99999999999999999999999]", "[#,#,#,#,~,x,1,#]"),
            ("a: &x [b]\nc: *x\n1: d", "{a:[b],c:[b],?:d}"),
            ("a: &x {k: 1, image: b}\nc:\n  <<: *x\n  k: d", "{a:{k:#,image:b},c:{k:d,image:b}}"),
            (
                "a: &x {i: 1}\nb: &y {i: s, j: t}\nc: {<<: [*x, *y]}",
                "{a:{i:#},b:{i:s,j:t},c:{i:#,j:t}}",
            ),
            ("a: &x {b: c}\nd: &y {<<: *x}\ne: {<<: *y}", "{a:{b:c},d:{b:c},e:{b:c}}"),
            ("a: !reset null\nb: !override {c: !t d}", "{a:~,b:{c:d}}"),
            ("kind: Pod\nmetadata: {a: b}\nstatus: {c: d}\nspec: e", "{kind:Pod,spec:e}"),
            ("status: {c: d}", "{status:{c:d}}"),
        ] {
            assert_eq!(shown(&Tree::of_yaml(yaml).expect(yaml)), tree, "{yaml}");
        }
    }

    #[test]
    fn what_grows_without_end_ends_in_an_error() {
        let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{},", level - 1).repeat(10);
            aliases.extend([format!("a{level}: &a{level} [{before}]\n")]);
        }
        let merges = format!("a: &a {{k: v}}\nb: [{}]", "{<<: *a},".repeat(10));
        assert!(Tree::of_yaml(&merges).is_ok());
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a,".repeat(10_000));
        for (what, text) in [
            ("too much when its aliases", aliases),
            ("too much when its aliases", long),
            ("recursion limit", "[".repeat(10_000)),
            ("recursion limit", "{a: ".repeat(10_000)),
            ("recursion limit", "- ".repeat(10_000)),
        ] {
            let error = Tree::of_yaml(&text).expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}
