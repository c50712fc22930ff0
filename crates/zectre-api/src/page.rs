//! Query parameters of lists: pages, sort keys and filters, each from a fixed set.

use crate::error::{Error, invalid_field};
use serde::Deserialize;
use utoipa::ToSchema;
use zectre_common::wire::page::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Page};

/// `asc` or `desc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SortOrder {
    /// Smallest first.
    Asc,
    /// Largest first.
    Desc,
}

/// Which part of a list is asked for, in which order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    page: u32,
    page_size: u32,
    /// The sort key, one of the list's own.
    pub(crate) sort: &'static str,
    /// Largest first.
    pub(crate) descending: bool,
}

impl Window {
    /// Checks the numbers.
    pub(crate) fn new(
        page: Option<u32>,
        page_size: Option<u32>,
        sort: &'static str,
        order: Option<SortOrder>,
        descending_by_default: bool,
    ) -> Result<Self, Error> {
        let (page, page_size) = (page.unwrap_or(1), page_size.unwrap_or(PAGE_SIZE_DEFAULT));
        if page == 0 {
            return Err(invalid_field("page", "pages count from 1"));
        }
        if page_size == 0 || page_size > PAGE_SIZE_MAX {
            return Err(invalid_field("page_size", format!("from 1 to {PAGE_SIZE_MAX}")));
        }
        let descending = order.map_or(descending_by_default, |order| order == SortOrder::Desc);
        Ok(Self {
            page,
            page_size,
            sort,
            descending,
        })
    }

    /// Rows wanted.
    pub(crate) fn limit(&self) -> i64 {
        self.page_size.into()
    }

    /// Rows before them.
    pub(crate) fn offset(&self) -> i64 {
        i64::from(self.page - 1) * i64::from(self.page_size)
    }

    /// The answer.
    pub(crate) fn page<T>(&self, data: Vec<T>, total: i64) -> Page<T> {
        Page {
            data,
            total,
            page: self.page,
            page_size: self.page_size,
        }
    }
}

/// A list that has a small bound of its own comes whole, unless a page of it is asked for.
pub(crate) fn whole_or_page<T>(all: Vec<T>, window: Option<Window>) -> Page<T> {
    let total = all.len() as i64;
    match window {
        None => Page {
            data: all,
            total,
            page: 1,
            page_size: total.max(1) as u32,
        },
        Some(window) => {
            let rows = all
                .into_iter()
                .skip(window.offset() as usize)
                .take(window.limit() as usize);
            window.page(rows.collect(), total)
        }
    }
}

/// Declares the query of a list: `page`, `page_size`, `sort_by` (of the keys given, the first is the
/// default), `sort_order`, and the list's own filters. Anything else is refused.
///
/// A key is a `tt`: what generates the document does not see through a `literal`, and told the variants' names for keys.
macro_rules! list_query {
    (
        $(#[$doc:meta])* $query:ident sorted by $sort:ident { $($variant:ident = $key:tt),+ $(,)? }
        $direction:ident first, filtered by { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* }
    ) => {
        #[doc = "What the list can be sorted by."]
        #[derive(Debug, Clone, Copy, serde::Deserialize, utoipa::ToSchema)]
        pub(crate) enum $sort { $(#[doc = $key] #[serde(rename = $key)] $variant,)+ }

        impl $sort {
            const DEFAULT: &'static str = [$($key),+][0];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $key,)+ }
            }
        }

        $(#[$doc])*
        #[derive(Debug, Clone, serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct $query {
            /// Counts from 1.
            page: Option<u32>,
            /// At most 100; default 20.
            page_size: Option<u32>,
            /// The key to sort by.
            #[param(inline)]
            sort_by: Option<$sort>,
            /// The direction.
            #[param(inline)]
            sort_order: Option<crate::page::SortOrder>,
            $($(#[$fdoc])* pub(crate) $field: Option<$type>,)*
        }

        impl $query {
            pub(crate) fn window(&self) -> Result<crate::page::Window, crate::error::Error> {
                crate::page::Window::new(
                    self.page, self.page_size, self.sort_by.map_or($sort::DEFAULT, $sort::as_str), self.sort_order,
                    crate::page::list_query!(@$direction),
                )
            }
        }
    };
    (@largest) => { true };
    (@smallest) => { false };
}
pub(crate) use list_query;
