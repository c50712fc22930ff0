//! Lists come in pages.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items on a page unless asked otherwise.
pub const PAGE_SIZE_DEFAULT: u32 = 20;
/// The most items on a page.
pub const PAGE_SIZE_MAX: u32 = 100;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub data: Vec<T>,
    /// How many there are on all pages.
    pub total: i64,
    /// This page's number, from 1.
    pub page: u32,
    /// Items asked for.
    pub page_size: u32,
}
