//! The C ABI of engine/text/rust_text.h: Hugging Face's tokenizers, and chat templates.
//!
//! Every function catches panics and reports them as errors, since none may cross into C++. Objects
//! are immutable after construction and may be used from any thread. Buffers handed out are given
//! back with `mayfly_buffer_free`.

mod chat_template;
mod tokenizer;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use chat_template::ChatTemplate;
use tokenizer::Tokenizer;

type Result<T> = std::result::Result<T, String>;

/// Bytes or token ids owned by this library.
#[repr(C)]
pub struct MayflyBuffer {
    data: *mut u8,
    size: usize,
}

impl From<Vec<u8>> for MayflyBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into_boxed_slice();
        let size = bytes.len();
        MayflyBuffer { data: Box::into_raw(bytes).cast(), size }
    }
}

/// # Safety
/// `buffer` came from this library and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn mayfly_buffer_free(buffer: MayflyBuffer) {
    if !buffer.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(buffer.data, buffer.size)));
    }
}

unsafe fn text<'a>(data: *const u8, size: usize) -> Result<&'a str> {
    std::str::from_utf8(bytes(data, size)).map_err(|error| format!("text is not UTF-8: {error}"))
}

unsafe fn bytes<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, size)
    }
}

fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        Err(format!("internal error: {message}"))
    })
}

/// Puts the bytes of a success, or the message of a failure, in `out`.
unsafe fn answer(out: *mut MayflyBuffer, work: impl FnOnce() -> Result<Vec<u8>>) -> bool {
    let result = guarded(work);
    let ok = result.is_ok();
    out.write(result.unwrap_or_else(String::into_bytes).into());
    ok
}

/// Returns null, and the message of the failure in `error`, when `work` fails.
unsafe fn construct<T>(error: *mut MayflyBuffer, work: impl FnOnce() -> Result<T>) -> *mut T {
    match guarded(work) {
        Ok(object) => Box::into_raw(Box::new(object)),
        Err(message) => {
            error.write(message.into_bytes().into());
            std::ptr::null_mut()
        }
    }
}

/// # Safety
/// `json` points to `size` bytes; `error` may be written.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_new(
    json: *const u8,
    size: usize,
    error: *mut MayflyBuffer,
) -> *mut Tokenizer {
    construct(error, || Tokenizer::from_json(bytes(json, size)))
}

/// # Safety
/// `tokenizer` came from `mayfly_tokenizer_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// The buffer holds token ids, four bytes each in the machine's order.
///
/// # Safety
/// All pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_encode(
    tokenizer: *const Tokenizer,
    data: *const u8,
    size: usize,
    add_special_tokens: bool,
    out: *mut MayflyBuffer,
) -> bool {
    answer(out, || {
        let ids = (*tokenizer).encode(text(data, size)?, add_special_tokens)?;
        Ok(ids.iter().flat_map(|id| id.to_ne_bytes()).collect())
    })
}

/// # Safety
/// All pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special: bool,
    out: *mut MayflyBuffer,
) -> bool {
    answer(out, || (*tokenizer).decode(bytes(ids, count), skip_special).map(String::into_bytes))
}

/// One more than the greatest token id.
///
/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_vocabulary_size(tokenizer: *const Tokenizer) -> usize {
    (*tokenizer).vocabulary_size()
}

/// The bytes that a token stands for, owned by the tokenizer; size 0 for an id without a token.
///
/// # Safety
/// All pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_token_bytes(
    tokenizer: *const Tokenizer,
    id: u32,
    size: *mut usize,
) -> *const u8 {
    let token = (*tokenizer).token_bytes(id);
    size.write(token.len());
    token.as_ptr()
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_is_special(tokenizer: *const Tokenizer, id: u32) -> bool {
    (*tokenizer).is_special(id)
}

/// Whether decoding is nothing but joining the bytes of the tokens.
///
/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_joins_bytes(tokenizer: *const Tokenizer) -> bool {
    (*tokenizer).joins_bytes()
}

/// The id of the token with exactly this content, or -1.
///
/// # Safety
/// All pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_tokenizer_token_to_id(
    tokenizer: *const Tokenizer,
    data: *const u8,
    size: usize,
) -> i64 {
    text(data, size).ok().and_then(|token| (*tokenizer).token_to_id(token)).map_or(-1, i64::from)
}

/// # Safety
/// `source` points to `size` bytes; `error` may be written.
#[no_mangle]
pub unsafe extern "C" fn mayfly_chat_template_new(
    source: *const u8,
    size: usize,
    error: *mut MayflyBuffer,
) -> *mut ChatTemplate {
    construct(error, || ChatTemplate::new(text(source, size)?))
}

/// # Safety
/// `template` came from `mayfly_chat_template_new` and is not used afterwards.
#[no_mangle]
pub unsafe extern "C" fn mayfly_chat_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// `context` is a JSON object: the template's variables.
///
/// # Safety
/// All pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn mayfly_chat_template_render(
    template: *const ChatTemplate,
    context: *const u8,
    size: usize,
    out: *mut MayflyBuffer,
) -> bool {
    answer(out, || (*template).render(bytes(context, size)).map(String::into_bytes))
}
