//! Lists come in pages.

use crate::error::{Error, invalid_field};
use serde::Deserialize;
use zectre_common::wire::page::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page};

/// What a list is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    page: Option<u32>,
    page_size: Option<u32>,
}

/// Which part of a list.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    number: u32,
    size: u32,
}

impl Window {
    /// From page and page size, as asked for.
    pub fn new(page: Option<u32>, page_size: Option<u32>) -> Result<Self, Error> {
        let (number, size) = (page.unwrap_or(1), page_size.unwrap_or(PAGE_SIZE_DEFAULT));
        if number == 0 {
            return Err(invalid_field("page", "pages are counted from 1"));
        }
        if size == 0 || size > PAGE_SIZE_MAX {
            return Err(invalid_field("page_size", format!("from 1 to {PAGE_SIZE_MAX}")));
        }
        Ok(Self { number, size })
    }

    /// Rows of a page.
    pub fn limit(self) -> i64 {
        self.size.into()
    }

    /// Rows before it.
    pub fn offset(self) -> i64 {
        i64::from(self.number - 1) * i64::from(self.size)
    }

    /// The page with these rows of `total`.
    pub fn page<T>(self, data: Vec<T>, total: i64) -> Page<T> {
        Page {
            data,
            total,
            page: self.number,
            page_size: self.size,
        }
    }
}

impl PageQuery {
    /// The part of the list that it asks for.
    pub fn window(&self) -> Result<Window, Error> {
        Window::new(self.page, self.page_size)
    }
}
