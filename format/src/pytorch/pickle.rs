//! A machine for the pickles of state dicts: it builds values and calls nothing.
//!
//! Opcodes are those of Python's `pickle` module, protocols 2 to 5, without those that only other objects need. Three
//! callables are known, and none is called: `collections.OrderedDict` makes a dictionary, `torch._utils._rebuild_tensor_v2` a
//! tensor, `torch._utils._rebuild_parameter` is its tensor. A value is built once and referred to by its number, so that
//! values inside values, however deep or often shared, cost no more than their opcodes.

use std::collections::BTreeMap;

use super::ElementType;
use crate::error::{Error, Result, printable};

/// The number of a value.
pub(super) type Id = usize;

/// What a pickle can build.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Integer(i64),
    Float,
    Text(&'a str),
    /// Bytes, which only other tools' metadata has.
    Bytes,
    Tuple(Vec<Id>),
    /// Its elements are looked at by nobody.
    List,
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    StorageClass(ElementType),
    Storage {
        element_type: ElementType,
        key: &'a str,
    },
    Tensor(Tensor<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

/// A tensor as the pickle describes it.
#[derive(Clone, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) element_type: ElementType,
    /// The storage's name.
    pub(super) key: &'a str,
    /// Elements before its first.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, for each side.
    pub(super) strides: Vec<usize>,
}

pub(super) struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a [u8]) -> Self {
        Self {
            program,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        }
    }

    /// Runs to the end; returns the object.
    pub(super) fn run(&mut self) -> Result<Id> {
        loop {
            let start = self.at;
            match self.step() {
                Ok(None) => {}
                Ok(Some(result)) => return Ok(result),
                Err(rule) => return Err(Error::At { offset: start as u64, rule }),
            }
        }
    }

    /// The tensors of an object: of the dictionary itself, or of one that it has under one of `containers`.
    pub(super) fn tensors(&self, object: Id, containers: &[&str]) -> Vec<(String, Tensor<'a>)> {
        let found = self.direct(object);
        if !found.is_empty() {
            return found;
        }
        let Value::Dict(entries) = &self.values[object] else { return Vec::new() };
        let inner = |name: &&str| {
            let key = |id: Id| matches!(self.values[id], Value::Text(text) if text == *name);
            entries.iter().find(|(id, _)| key(*id)).map(|(_, value)| self.direct(*value))
        };
        containers.iter().find_map(inner).unwrap_or_default()
    }

    fn direct(&self, object: Id) -> Vec<(String, Tensor<'a>)> {
        let Value::Dict(entries) = &self.values[object] else { return Vec::new() };
        let tensor = |(key, value): &(Id, Id)| match (&self.values[*key], &self.values[*value]) {
            (Value::Text(name), Value::Tensor(tensor)) => Some((name.to_string(), tensor.clone())),
            _ => None,
        };
        entries.iter().filter_map(tensor).collect()
    }

    /// One opcode; the object, at the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let opcode = self.byte()?;
        match opcode {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                2..=5 => {}
                other => return Err(format!("protocol {other} is not read")),
            },
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Integer(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Integer(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Integer(value.into()));
            }
            // LONG1: little-endian two's complement.
            0x8a => {
                let length = usize::from(self.byte()?);
                let bytes = self.take(length)?;
                let value = long(bytes).ok_or("a whole number has more than 64 bits")?;
                self.push(Value::Integer(value));
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.text(length)?;
            }
            0x8c => {
                let length = usize::from(self.byte()?);
                self.text(length)?;
            }
            0x8d => {
                let length =
                    usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
                self.text(length)?;
            }
            // BINBYTES, SHORT_BINBYTES
            b'B' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.take(length)?;
                self.push(Value::Bytes);
            }
            b'C' => {
                let length = usize::from(self.byte()?);
                self.take(length)?;
                self.push(Value::Bytes);
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List),
            b'a' => {
                self.pop()?;
                self.top_is_list()?;
            }
            b'e' => {
                self.pop_mark()?;
                self.top_is_list()?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let slot = self.byte()?;
                self.put(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.put(slot)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let slot = self.byte()?;
                self.get(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?);
                self.get(slot)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name)?,
                    _ => return Err("a callable must be named by text".into()),
                }
            }
            b'R' => self.reduce()?,
            // BUILD: attributes of an OrderedDict, which say nothing about tensors.
            b'b' => {
                self.pop()?;
                let top = self.top()?;
                if !matches!(self.values[top], Value::Dict(_)) {
                    return Err("attributes may be set on dictionaries alone".into());
                }
            }
            b'Q' => self.storage()?,
            other => {
                return Err(format!(
                    "opcode {other:#04x} is not one that a state dict needs; it is not executed"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let rest = &self.program[self.at..];
        let taken = rest
            .get(..count)
            .ok_or_else(|| format!("needs {count} bytes, the pickle has {} more", rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.program[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("a line has no end")?;
        let line = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name must be UTF-8".into())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text must be UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let base = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= base {
            return Err("takes a value from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "takes a value from an empty stack".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn top_is_list(&self) -> Result<(), String> {
        match self.values[self.top()?] {
            Value::List => Ok(()),
            _ => Err("elements may be added to lists alone".into()),
        }
    }

    fn insert(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("a key has no value".into());
        };
        match &mut self.values[top] {
            Value::Dict(entries) => entries.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err("entries may be added to dictionaries alone".into()),
        }
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn get(&mut self, slot: u32) -> Result<(), String> {
        let value = self.memo.get(&slot).ok_or_else(|| format!("the memo has no {slot}"))?;
        self.stack.push(*value);
        Ok(())
    }

    /// The list of what may be named.
    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let value = match (module, name) {
            ("collections", "OrderedDict") => Value::Callable(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Value::Callable(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Value::Callable(Callable::RebuildParameter),
            ("torch", class) if ElementType::of_storage(class).is_some() => {
                let element_type = ElementType::of_storage(class);
                element_type.map_or(Value::None, Value::StorageClass)
            }
            _ => {
                return Err(format!(
                    "names `{}.{}`, which a state dict does not need; it is not called",
                    printable(module, 60),
                    printable(name, 60)
                ));
            }
        };
        self.push(value);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err("the arguments must be a tuple".into());
        };
        let value = match (&self.values[callable], arguments.as_slice()) {
            (Value::Callable(Callable::OrderedDict), []) => Value::Dict(Vec::new()),
            // A parameter is its tensor, whether it needs gradients, and hooks.
            (Value::Callable(Callable::RebuildParameter), &[tensor, ..]) => {
                match &self.values[tensor] {
                    tensor @ Value::Tensor(_) => tensor.clone(),
                    _ => return Err("a parameter must have a tensor".into()),
                }
            }
            (Value::Callable(Callable::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                self.tensor(storage, offset, shape, strides)?
            }
            _ => return Err("calls what is not to be called, or with the wrong arguments".into()),
        };
        self.push(value);
        Ok(())
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Value<'a>, String> {
        let &Value::Storage { element_type, key } = &self.values[storage] else {
            return Err("a tensor must have a storage".into());
        };
        let number = |id: Id| match self.values[id] {
            Value::Integer(value) => usize::try_from(value).map_err(|_| {
                format!("sides, strides and offsets must be 0 or more, one is {value}")
            }),
            _ => Err("sides, strides and offsets must be whole numbers".into()),
        };
        let numbers = |id: Id| match &self.values[id] {
            Value::Tuple(items) => items.iter().map(|&id| number(id)).collect(),
            _ => Err("sides and strides must be tuples".to_owned()),
        };
        let (shape, strides): (Vec<usize>, Vec<usize>) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err("a tensor must have a stride for each side".into());
        }
        Ok(Value::Tensor(Tensor { element_type, key, offset: number(offset)?, shape, strides }))
    }

    /// BINPERSID: `("storage", class, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(items) = &self.values[id] else {
            return Err("a storage must be named by a tuple".into());
        };
        let value = match items.as_slice() {
            &[kind, class, key, ..] => {
                match (&self.values[kind], &self.values[class], &self.values[key]) {
                    (
                        Value::Text("storage"),
                        &Value::StorageClass(element_type),
                        &Value::Text(key),
                    ) => Value::Storage { element_type, key },
                    _ => return Err("a storage must have a class and a key".into()),
                }
            }
            _ => return Err("a storage must have a class and a key".into()),
        };
        self.push(value);
        Ok(())
    }
}

/// A whole number of up to eight bytes; no bytes are zero.
fn long(bytes: &[u8]) -> Option<i64> {
    let (&last, _) = bytes.split_last().unwrap_or((&0, &[]));
    let mut all = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}
