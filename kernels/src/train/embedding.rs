//! Rows of a table by id, and the gradient of the table.

/// `y[row] = table[ids[row]]`.
///
/// # Shapes
///
/// - `table`: `[vocab, hidden]`
/// - `ids`: `[rows]`, each below `vocab`
/// - `y`: `[rows, hidden]`
///
/// # Panics
///
/// If the shapes disagree or an id is outside the table.
pub fn embedding(table: &[f32], ids: &[u32], hidden: usize, y: &mut [f32]) {
    assert_eq!(y.len(), ids.len() * hidden);
    for (y, &id) in y.chunks_exact_mut(hidden).zip(ids) {
        y.copy_from_slice(&table[id as usize * hidden..][..hidden]);
    }
}

/// The gradient of [`embedding`]: `dtable[id]` is the sum of `dy[row]` over the rows of that id, in their order.
///
/// One thread: the sum's order is the rows', and at a few megabytes a step there is little to share.
///
/// # Shapes
///
/// - `ids`: `[rows]`
/// - `dy`: `[rows, hidden]`
/// - `dtable`: `[vocab, hidden]`, overwritten
///
/// # Panics
///
/// If the shapes disagree or an id is outside the table.
pub fn embedding_backward(ids: &[u32], dy: &[f32], hidden: usize, dtable: &mut [f32]) {
    assert_eq!(dy.len(), ids.len() * hidden);
    dtable.fill(0.0);
    for (dy, &id) in dy.chunks_exact(hidden).zip(ids) {
        for (sum, dy) in dtable[id as usize * hidden..][..hidden].iter_mut().zip(dy) {
            *sum += dy;
        }
    }
}
