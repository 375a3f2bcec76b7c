//! The protobuf form. A message's fields may come in any order, so that what belongs to all its parts is read before the parts are.

use super::attribute::key_value;
use super::wire::{Fields, Wire};
use super::{Head, Reading, Taker};
use crate::limits::{MAX_BUCKETS, MAX_FIELDS};
use crate::point::{PointError, Tag, Value};

/// An `ExportMetricsServiceRequest`.
pub(super) fn request(body: &[u8], taker: &mut Taker<'_, '_>) -> Result<(), PointError> {
    each(body, 1, |message| resource_metrics(message, taker))
}

/// Calls for each occurrence of a field that is a message.
fn each<'a>(
    message: &'a [u8],
    field: u32,
    mut work: impl FnMut(&'a [u8]) -> Result<(), PointError>,
) -> Result<(), PointError> {
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        if number == field {
            work(wire.bytes()?)?;
        }
    }
    Ok(())
}

fn resource_metrics(message: &[u8], taker: &mut Taker<'_, '_>) -> Result<(), PointError> {
    let mut resource: Vec<Tag<'_>> = Vec::new();
    each(message, 1, |inner| each(inner, 1, |pair| key_value(pair, &mut resource)))?;
    each(message, 2, |scope| each(scope, 2, |metric| self::metric(metric, &resource, taker)))
}

fn metric(message: &[u8], resource: &[Tag<'_>], taker: &mut Taker<'_, '_>) -> Result<(), PointError> {
    let mut head = Head::default();
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => head.name = wire.text()?,
            3 => head.unit = wire.text()?,
            _ => {}
        }
    }
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        let read: for<'a> fn(&'a [u8]) -> Result<Reading<'a>, PointError> = match number {
            // Gauge, sum, histogram, exponential histogram, summary: the data points are field 1 of each.
            5 | 7 => number_point,
            9 => histogram_point,
            10 => exponential_point,
            11 => summary_point,
            _ => continue,
        };
        each(wire.bytes()?, 1, |message| taker.take(resource, head, read(message)))?;
    }
    Ok(())
}

fn number_point(message: &[u8]) -> Result<Reading<'_>, PointError> {
    let mut reading = Reading::default();
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            3 => reading.time_ns = wire.fixed64()?,
            4 => reading.value = Some(Value::Float(wire.double()?)),
            6 => reading.value = Some(Value::Integer(wire.fixed64()?.cast_signed())),
            7 => key_value(wire.bytes()?, &mut reading.attributes)?,
            8 => reading.nothing = no_value(wire)?,
            _ => {}
        }
    }
    Ok(reading)
}

fn histogram_point(message: &[u8]) -> Result<Reading<'_>, PointError> {
    let mut reading = Reading::default();
    let mut bounds = Vec::new();
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            3 => reading.time_ns = wire.fixed64()?,
            4 => reading.count = Some(wire.fixed64()?),
            5 => reading.sum = Some(wire.double()?),
            6 => wire.packed64(&mut reading.counts, MAX_BUCKETS)?,
            7 => wire.packed64(&mut bounds, MAX_BUCKETS)?,
            9 => key_value(wire.bytes()?, &mut reading.attributes)?,
            10 => reading.nothing = no_value(wire)?,
            11 => reading.min = Some(wire.double()?),
            12 => reading.max = Some(wire.double()?),
            _ => {}
        }
    }
    reading.bounds = bounds.into_iter().map(f64::from_bits).collect();
    reading.count.get_or_insert(0);
    Ok(reading)
}

fn exponential_point(message: &[u8]) -> Result<Reading<'_>, PointError> {
    let mut reading = Reading::default();
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => key_value(wire.bytes()?, &mut reading.attributes)?,
            3 => reading.time_ns = wire.fixed64()?,
            4 => reading.count = Some(wire.fixed64()?),
            5 => reading.sum = Some(wire.double()?),
            10 => reading.nothing = no_value(wire)?,
            12 => reading.min = Some(wire.double()?),
            13 => reading.max = Some(wire.double()?),
            _ => {}
        }
    }
    reading.count.get_or_insert(0);
    Ok(reading)
}

fn summary_point(message: &[u8]) -> Result<Reading<'_>, PointError> {
    let mut reading = Reading::default();
    let mut fields = Fields::of(message);
    while let Some((number, wire)) = fields.next()? {
        match number {
            3 => reading.time_ns = wire.fixed64()?,
            4 => reading.count = Some(wire.fixed64()?),
            5 => reading.sum = Some(wire.double()?),
            6 => {
                if reading.quantiles.len() >= MAX_FIELDS {
                    return Err(PointError::TooMany { what: "fields", max: MAX_FIELDS });
                }
                let mut pair = (0.0, 0.0);
                let mut inner = Fields::of(wire.bytes()?);
                while let Some((number, wire)) = inner.next()? {
                    match number {
                        1 => pair.0 = wire.double()?,
                        2 => pair.1 = wire.double()?,
                        _ => {}
                    }
                }
                reading.quantiles.push(pair);
            }
            7 => key_value(wire.bytes()?, &mut reading.attributes)?,
            8 => reading.nothing = no_value(wire)?,
            _ => {}
        }
    }
    reading.count.get_or_insert(0);
    Ok(reading)
}

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`.
fn no_value(wire: Wire<'_>) -> Result<bool, PointError> {
    Ok(wire.varint()? & 1 != 0)
}
