//! Handlers of one type: what they take and are made of ends here.
//!
//! A handler of its own type is wrapped by axum in a dozen types of its own, and each layer around it again: with 150
//! endpoints, they are most of what the compiler has to do for this crate.

use crate::context::Context;
use axum::{extract::Request, handler::Handler, response::Response};
use std::pin::Pin;

/// What a handler of functions answers with, sooner or later.
type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A handler that has forgotten what it is.
#[derive(Clone, Copy)]
pub(crate) struct Erased(&'static (dyn Fn(Request, Context) -> Answer + Send + Sync));

impl Erased {
    /// Of a function. It takes no place, so that keeping it for ever does not either.
    pub(crate) fn new<H, T>(handler: H) -> Self
    where
        H: Handler<T, Context, Future = Answer> + Copy,
        T: 'static,
    {
        const { assert!(size_of::<H>() == 0, "a function takes no place") };
        Self(Box::leak(Box::new(move |request, context| {
            handler.call(request, context)
        })))
    }
}

impl Handler<Erased, Context> for Erased {
    type Future = Answer;

    fn call(self, request: Request, context: Context) -> Answer {
        (self.0)(request, context)
    }
}

/// A function with its description, for [`endpoint`](crate::endpoint::endpoint).
macro_rules! routes {
    ($handler:ident) => {{
        let $handler = $crate::handler::Erased::new($handler);
        utoipa_axum::routes!($handler)
    }};
}
pub(crate) use routes;
