//! What happens to the points of a line before it is drawn.

/// `(x, y)`
pub(crate) type Point = (f64, f64);

/// The mean of each point and half of `window` on either side of it.
pub(crate) fn smooth(points: &[Point], window: usize) -> Vec<Point> {
    let half = window / 2;
    (0..points.len())
        .map(|i| {
            let part = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
            (points[i].0, part.iter().map(|point| point.1).sum::<f64>() / part.len() as f64)
        })
        .collect()
}

/// At most about `most` of the points: of each stretch the lowest and the highest, so that no spike is lost.
pub(super) fn decimate(points: Vec<Point>, most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points;
    }
    let stretch = points.len().div_ceil(most / 2);
    let mut kept = Vec::with_capacity(most + 2);
    for part in points.chunks(stretch) {
        let by_y = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let (low, high) = (part.iter().min_by(by_y), part.iter().max_by(by_y));
        let mut ends: Vec<Point> = low.into_iter().chain(high).copied().collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends.dedup();
        kept.extend(ends);
    }
    // The curve ends where the run does.
    kept.extend(points.last().filter(|last| kept.last() != Some(last)).copied());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_averages_what_is_around() {
        let points = [(1.0, 4.0), (2.0, 2.0), (3.0, 0.0)];
        assert_eq!(smooth(&points, 3), [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]);
        assert_eq!(smooth(&points, 1), points);
        assert_eq!(smooth(&points, 0), points);
        assert_eq!(smooth(&[], 5), []);
    }

    #[test]
    fn few_points_keep_every_spike_and_the_end() {
        let mut points: Vec<Point> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[54_321].1 = 9.0;
        points[54_322].1 = -9.0;
        let kept = decimate(points.clone(), 1_000);
        assert!(kept.len() <= 1_002, "{}", kept.len());
        assert!(kept.contains(&(54_321.0, 9.0)) && kept.contains(&(54_322.0, -9.0)));
        assert_eq!(kept.last(), points.last());
        assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(decimate(points[..9].to_vec(), 1_000), points[..9]);
    }
}
