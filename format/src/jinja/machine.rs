//! Runs a template.

use std::rc::Rc;
use std::time::SystemTime;

use super::filters::{self, ITEM};
use super::functions::FUNCTIONS;
use super::operators::{binary, compare, entry};
use super::syntax::{
    Arguments, Comparison, Expression, Filter, For, Id, Kind, Statement, Target, Template,
};
use super::text::Text;
use super::value::{Loop, Value};
use super::writing::written;
use super::{Budget, Fault, functions, methods};

/// The deepest that bodies, expressions and calls of macros may be in each other.
const DEEPEST: usize = 200;

type Result<T> = std::result::Result<T, String>;

/// What a template is run with.
pub(crate) struct Input {
    /// Names that it may use.
    pub(crate) variables: Vec<(&'static str, Value)>,
    /// What `strftime_now` takes for now.
    pub(crate) now: SystemTime,
    /// Steps and bytes that it may take.
    pub(crate) budget: u64,
}

pub(super) fn run(template: &Template, input: Input) -> std::result::Result<Text, Fault> {
    let globals = input.variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    let mut machine = Machine {
        template,
        budget: Budget::new(input.budget),
        now: input.now,
        scopes: vec![vec![globals.collect(), Vec::new()]],
        out: vec![Text::default()],
        depth: 0,
        loops: 0,
        line: 1,
    };
    match machine.body(&template.body) {
        Ok(_) => Ok(machine.out.pop().unwrap_or_default()),
        Err(rule) => Err(Fault::new(machine.line, rule)),
    }
}

/// What follows a statement.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

type Scope = Vec<(String, Value)>;

/// The values of the arguments of a call.
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    /// The argument at a place, or of a name.
    pub(super) fn get(&self, place: usize, name: &str) -> Option<&Value> {
        let named = || self.named.iter().find(|(other, _)| other == name).map(|(_, value)| value);
        self.positional.get(place).or_else(named)
    }

    /// The same where it must be there.
    pub(super) fn need(&self, place: usize, name: &str) -> Result<&Value> {
        self.get(place, name).ok_or_else(|| format!("the argument `{name}` is missing"))
    }
}

struct Machine<'t> {
    template: &'t Template,
    pub(super) budget: Budget,
    now: SystemTime,
    /// For each call under way its scopes, the innermost last. The outermost are the names given and the template's own.
    scopes: Vec<Vec<Scope>>,
    /// Where output goes: the last one.
    out: Vec<Text>,
    depth: usize,
    /// Loops around the one that runs.
    loops: usize,
    /// Of the statement that runs.
    line: usize,
}

impl Machine<'_> {
    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.budget.pay(1)?;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("it may be nested {DEEPEST} deep when it runs, is deeper"));
        }
        let done = run(self)?;
        self.depth -= 1;
        Ok(done)
    }

    fn put(&mut self, text: &Text) -> Result<()> {
        self.budget.pay(text.len())?;
        if let Some(out) = self.out.last_mut() {
            out.push(text);
        }
        Ok(())
    }

    fn frame(&mut self) -> &mut Vec<Scope> {
        // There is always the template's own.
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn find(&mut self, name: &str) -> Result<Option<Value>> {
        let mut looked = 0;
        let local = self.scopes.last().into_iter().flatten();
        // Within a macro the names of the template are there too, but not those of whoever calls it.
        let global = self.scopes.first().into_iter().flat_map(|scopes| scopes.iter().take(2).rev());
        let found = local.rev().chain(global).flatten().find(|(other, _)| {
            looked += 1;
            other == name
        });
        let value = found.map(|(_, value)| value.clone());
        self.budget.pay(looked)?;
        Ok(value)
    }

    fn assign(&mut self, name: &str, value: Value) -> Result<()> {
        let size = self.frame().last().map_or(0, Vec::len);
        self.budget.pay(ITEM + name.len() + size)?;
        let Some(scope) = self.frame().last_mut() else { return Ok(()) };
        match scope.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => scope.push((name.to_owned(), value)),
        }
        Ok(())
    }

    fn assign_to(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign(name, value),
            Target::Names(names) => {
                let items = filters::items(&value, &mut self.budget)?;
                if items.len() != names.len() {
                    return Err(format!("{} values for {} names", items.len(), names.len()));
                }
                names.iter().zip(items).try_for_each(|(name, item)| self.assign(name, item))
            }
            Target::Attribute(name, key) => {
                let Some(Value::Namespace(namespace)) = self.find(name)? else {
                    return Err(format!(
                        "`{name}` is no namespace, so `{name}.{key}` cannot be set"
                    ));
                };
                if !value.is_plain() {
                    return Err("a namespace cannot hold a namespace".to_owned());
                }
                let mut entries = namespace.0.borrow_mut();
                self.budget.pay(ITEM + key.len() + entries.len())?;
                match entries.iter_mut().find(|(other, _)| other == key) {
                    Some((_, old)) => *old = value,
                    None => entries.push((key.clone(), value)),
                }
                Ok(())
            }
        }
    }

    fn body(&mut self, statements: &[Statement]) -> Result<Flow> {
        self.deeper(|machine| {
            for statement in statements {
                match machine.statement(statement)? {
                    Flow::Next => {}
                    flow => return Ok(flow),
                }
            }
            Ok(Flow::Next)
        })
    }

    /// Runs a body in a scope of its own.
    fn scoped<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.frame().push(Vec::new());
        let done = run(self)?;
        self.frame().pop();
        Ok(done)
    }

    /// What a body writes.
    fn captured(&mut self, body: &[Statement]) -> Result<Value> {
        self.out.push(Text::default());
        self.scoped(|machine| machine.body(body))?;
        Ok(Value::text(self.out.pop().unwrap_or_default()))
    }

    fn statement(&mut self, statement: &Statement) -> Result<Flow> {
        self.budget.pay(1)?;
        self.line = statement.line;
        match &statement.kind {
            Kind::Data(text) => self.put(text)?,
            Kind::Output(value) => {
                let value = self.value(*value)?;
                let text = written(&value, &mut self.budget)?;
                self.put(&text)?;
            }
            Kind::If(branches, or_else) => {
                for (condition, body) in branches {
                    self.line = statement.line;
                    if self.value(*condition)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(or_else);
            }
            Kind::For(parts) => return self.for_loop(parts),
            Kind::Set(target, value) => {
                let value = self.value(*value)?;
                self.assign_to(target, value)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let text = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                self.assign_to(target, value)?;
            }
            Kind::FilterBlock(filters, body) => {
                let text = self.captured(body)?;
                let value = self.filtered(text, filters)?;
                let text = written(&value, &mut self.budget)?;
                self.put(&text)?;
            }
            Kind::With(values, body) => {
                let values = values.iter().map(|(target, value)| Ok((target, self.value(*value)?)));
                let values = values.collect::<Result<Vec<_>>>()?;
                return self.scoped(|machine| {
                    for (target, value) in values {
                        machine.assign_to(target, value)?;
                    }
                    machine.body(body)
                });
            }
            Kind::Plain(body) => return self.body(body),
            Kind::Macro(index) => {
                self.assign(&self.template.macros[*index].name, Value::Macro(*index))?;
            }
            Kind::Break | Kind::Continue if self.loops == 0 => {
                return Err("`break` and `continue` stand in loops only".to_owned());
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn for_loop(&mut self, parts: &For) -> Result<Flow> {
        let over = self.value(parts.over)?;
        let mut items = filters::items(&over, &mut self.budget)?;
        if let Some(condition) = parts.condition {
            let mut kept = Vec::new();
            for item in items {
                let keep = self.scoped(|machine| {
                    machine.assign_to(&parts.target, item.clone())?;
                    machine.value(condition)
                })?;
                if keep.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.scoped(|machine| machine.body(&parts.or_else));
        }
        let items = Rc::new(items);
        self.loops += 1;
        for index in 0..items.len() {
            let state = Loop { items: Rc::clone(&items), index, depth: self.loops };
            let flow = self.scoped(|machine| {
                machine.assign("loop", Value::Loop(Rc::new(state)))?;
                machine.assign_to(&parts.target, items[index].clone())?;
                machine.body(&parts.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        self.loops -= 1;
        Ok(Flow::Next)
    }

    fn filtered(&mut self, mut value: Value, filters: &[Filter]) -> Result<Value> {
        for filter in filters {
            let given = self.arguments(&filter.arguments)?;
            value = self.filter(&filter.name, &value, &given)?;
        }
        Ok(value)
    }

    fn filter(&mut self, name: &str, value: &Value, given: &Given) -> Result<Value> {
        filters::filter(name, value, given, &mut self.budget)
    }

    fn arguments(&mut self, arguments: &Arguments) -> Result<Given> {
        let positional =
            arguments.positional.iter().map(|&id| self.value(id)).collect::<Result<_>>()?;
        let named = arguments.named.iter().map(|(name, id)| Ok((name.clone(), self.value(*id)?)));
        Ok(Given { positional, named: named.collect::<Result<_>>()? })
    }

    fn value(&mut self, id: Id) -> Result<Value> {
        self.deeper(|machine| machine.expression(id))
    }

    fn expression(&mut self, id: Id) -> Result<Value> {
        let template = self.template;
        match &template.expressions[id as usize] {
            Expression::Constant(value) => Ok(value.clone()),
            Expression::Name(name) => self.name(name),
            Expression::List(items) => {
                self.budget.pay(items.len() * ITEM)?;
                Value::list(items.iter().map(|&id| self.value(id)).collect::<Result<_>>()?)
            }
            Expression::Tuple(items) => {
                self.budget.pay(items.len() * ITEM)?;
                Value::tuple(items.iter().map(|&id| self.value(id)).collect::<Result<_>>()?)
            }
            Expression::Dict(entries) => self.dict(entries),
            Expression::Attribute(of, name) => {
                let of = self.value(*of)?;
                self.attribute(&of, name)
            }
            Expression::Item(of, key) => {
                let (of, key) = (self.value(*of)?, self.value(*key)?);
                self.item(&of, &key)
            }
            Expression::Slice(of, parts) => {
                let of = self.value(*of)?;
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    let Some(part) = part else { continue };
                    let value = self.value(*part)?;
                    if !matches!(value, Value::None) {
                        let integer = value.as_integer();
                        *bound = Some(integer.ok_or_else(|| {
                            format!("a slice is cut by integers, not {}", value.described())
                        })?);
                    }
                }
                methods::slice(&of, bounds, &mut self.budget)
            }
            Expression::Call(function, arguments) => self.call(*function, arguments),
            Expression::Filter(value, filter) => {
                // What is not there has a default.
                let value = self.value(*value)?;
                let given = self.arguments(&filter.arguments)?;
                self.filter(&filter.name, &value, &given)
            }
            Expression::Test(value, test, negated) => {
                let value = self.value(*value)?;
                let given = self.arguments(&test.arguments)?;
                let holds = filters::test(&test.name, &value, &given, &mut self.budget)?;
                Ok(Value::Bool(holds != *negated))
            }
            Expression::Not(value) => Ok(Value::Bool(!self.value(*value)?.is_true())),
            Expression::Negative(value) => match self.value(*value)? {
                Value::Float(number) => Ok(Value::Float(-number)),
                value => {
                    let number = value.as_integer().and_then(i64::checked_neg);
                    number
                        .map(Value::Integer)
                        .ok_or_else(|| format!("-{} means nothing", value.described()))
                }
            },
            Expression::Positive(value) => self.value(*value),
            Expression::And(a, b) => {
                let a = self.value(*a)?;
                if a.is_true() { self.value(*b) } else { Ok(a) }
            }
            Expression::Or(a, b) => {
                let a = self.value(*a)?;
                if a.is_true() { Ok(a) } else { self.value(*b) }
            }
            Expression::Binary(operator, a, b) => {
                let (a, b) = (self.value(*a)?, self.value(*b)?);
                binary(operator, &a, &b, &mut self.budget)
            }
            Expression::Compare(first, rest) => self.comparison(*first, rest),
            Expression::Conditional(then, condition, or_else) => {
                if self.value(*condition)?.is_true() {
                    return self.value(*then);
                }
                match or_else {
                    Some(or_else) => self.value(*or_else),
                    None => Ok(Value::undefined("the value of an `if` without `else`")),
                }
            }
        }
    }

    fn comparison(&mut self, first: Id, rest: &[(Comparison, Id)]) -> Result<Value> {
        let mut left = self.value(first)?;
        for (comparison, right) in rest {
            let right = self.value(*right)?;
            if !compare(*comparison, &left, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn dict(&mut self, entries: &[(Id, Id)]) -> Result<Value> {
        let mut made: Vec<(Value, Value)> = Vec::new();
        for (key, value) in entries {
            let (key, value) = (self.value(*key)?, self.value(*value)?);
            self.budget.pay(ITEM)?;
            let mut place = None;
            for (i, (other, _)) in made.iter().enumerate() {
                if compare(Comparison::Equal, other, &key, &mut self.budget)? {
                    place = Some(i);
                }
            }
            match place {
                Some(place) => made[place].1 = value,
                None => made.push((key, value)),
            }
        }
        Value::dict(made)
    }

    fn name(&mut self, name: &str) -> Result<Value> {
        if let Some(value) = self.find(name)? {
            return Ok(value);
        }
        let function = FUNCTIONS.iter().find(|function| **function == name);
        Ok(function.map_or_else(|| Value::undefined(name), |function| Value::Function(function)))
    }

    /// `of.name`: the value of a key, or what a namespace or a loop has.
    fn attribute(&mut self, of: &Value, name: &str) -> Result<Value> {
        match of {
            Value::Dict(dict) => {
                let key = Value::written(name);
                let found = entry(&dict.entries, &key, &mut self.budget)?;
                Ok(found.cloned().unwrap_or_else(|| Value::undefined(name)))
            }
            Value::Namespace(namespace) => {
                let entries = namespace.0.borrow();
                self.budget.pay(entries.len())?;
                let found = entries.iter().find(|(other, _)| other == name);
                Ok(found.map_or_else(|| Value::undefined(name), |(_, value)| value.clone()))
            }
            Value::Loop(state) => Ok(methods::of_loop(state, name)),
            Value::Undefined(_) => Err(format!("{} has no `{name}`", of.described())),
            _ => Ok(Value::undefined(name)),
        }
    }

    fn item(&mut self, of: &Value, key: &Value) -> Result<Value> {
        match (of, key) {
            (Value::Dict(dict), _) => {
                let found = entry(&dict.entries, key, &mut self.budget)?;
                let name = || key.as_text().map_or("a key", |key| key.as_str()).to_owned();
                Ok(found.cloned().unwrap_or_else(|| Value::undefined(&name())))
            }
            (Value::Text(_) | Value::List(_), _) if key.as_integer().is_some() => {
                let index = key.as_integer().unwrap_or_default();
                methods::at(of, index, &mut self.budget)
            }
            (_, Value::Text(name)) => self.attribute(of, name.as_str()),
            (Value::Undefined(_), _) => Err(format!("{} has no items", of.described())),
            _ => Ok(Value::undefined("an item")),
        }
    }

    fn call(&mut self, function: Id, arguments: &Arguments) -> Result<Value> {
        // A method is no value: it is looked up where it is called.
        if let Expression::Attribute(of, name) = &self.template.expressions[function as usize] {
            let of = self.value(*of)?;
            let given = self.arguments(arguments)?;
            if let Value::Namespace(_) = of {
                let own = self.attribute(&of, name)?;
                return self.call_value(&own, name, given);
            }
            return methods::call(&of, name, &given, &mut self.budget);
        }
        let called = self.value(function)?;
        let given = self.arguments(arguments)?;
        self.call_value(&called, "it", given)
    }

    fn call_value(&mut self, called: &Value, name: &str, given: Given) -> Result<Value> {
        match called {
            Value::Macro(index) => self.call_macro(*index, given),
            Value::Function(function) => {
                functions::call(function, given, self.now, &mut self.budget)
            }
            Value::Undefined(name) => Err(format!("there is no function `{name}`")),
            other => Err(format!("`{name}` is {}, which cannot be called", other.kind())),
        }
    }

    fn call_macro(&mut self, index: usize, given: Given) -> Result<Value> {
        let template = self.template;
        let called = &template.macros[index];
        let Given { positional, mut named } = given;
        if positional.len() > called.parameters.len() {
            return Err(format!(
                "`{}` takes {} arguments, not {}",
                called.name,
                called.parameters.len(),
                positional.len()
            ));
        }
        let line = self.line;
        self.scopes.push(vec![Vec::new()]);
        let loops = std::mem::take(&mut self.loops);
        let mut positional = positional.into_iter();
        for (parameter, default) in &called.parameters {
            self.budget.pay(named.len())?;
            let by_name = named.iter().position(|(name, _)| name == parameter);
            let value = match (positional.next(), by_name, default) {
                (Some(value), ..) => value,
                (None, Some(place), _) => named.swap_remove(place).1,
                (None, None, Some(default)) => self.value(*default)?,
                (None, None, None) => Value::undefined(parameter),
            };
            self.assign(parameter, value)?;
        }
        if let Some((name, _)) = named.first() {
            return Err(format!("`{}` has no argument `{name}`", called.name));
        }
        let text = self.captured(&called.body)?;
        self.loops = loops;
        self.scopes.pop();
        self.line = line;
        Ok(text)
    }
}
