//! Lists come in pages.

use crate::ClientError;
use zectre_common::wire::page::{PAGE_SIZE_MAX, Page};

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// From 1.
    pub page: u32,
    /// At most 100.
    pub page_size: u32,
}

impl Default for Paging {
    /// The first page, as large as the API allows.
    fn default() -> Self {
        Self {
            page: 1,
            page_size: PAGE_SIZE_MAX,
        }
    }
}

impl Paging {
    /// The first `items` items, as many as fit a page.
    pub fn first(items: u32) -> Self {
        Self {
            page: 1,
            page_size: items.clamp(1, PAGE_SIZE_MAX),
        }
    }

    pub(crate) fn query(self) -> Vec<(&'static str, String)> {
        vec![
            ("page", self.page.to_string()),
            ("page_size", self.page_size.to_string()),
        ]
    }
}

/// The most pages [`collect`] reads: 10,000 items.
const PAGES_MAX: u32 = 100;

/// Every item of a list (the first 10,000): calls `page_of` for one page after another.
///
/// # Errors
/// Those of `page_of`.
pub async fn collect<T>(
    page_of: impl AsyncFn(Paging) -> Result<Page<T>, ClientError>,
) -> Result<Vec<T>, ClientError> {
    let mut items = Vec::new();
    for page in 1..=PAGES_MAX {
        let answer = page_of(Paging {
            page,
            ..Paging::default()
        })
        .await?;
        let last = answer.data.is_empty();
        items.extend(answer.data);
        if last || items.len() as i64 >= answer.total {
            break;
        }
    }
    Ok(items)
}
