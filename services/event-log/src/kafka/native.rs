//! What librdkafka can do and rdkafka does not offer: the ids of topics, and whether a record that
//! failed may be in the log all the same. The only `unsafe` code of this crate.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    ptr::NonNull,
    time::Duration,
};

use rdkafka::{
    bindings as sys,
    client::{Client, ClientContext},
    error::RDKafkaErrorCode,
    message::BorrowedMessage,
};

/// A topic as its cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// As Kafka's own tools print it.
    pub(super) id: String,
    pub(super) partitions: u32,
    /// Copies of the partition that has fewest.
    pub(super) replicas: u32,
}

/// Whether a record whose delivery failed may be in the log, now or later.
pub(super) fn may_be_in_log(message: &BorrowedMessage<'_>) -> bool {
    status(message) != sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

/// Whether a record is in the log, as a broker has said.
pub(super) fn is_in_log(message: &BorrowedMessage<'_>) -> bool {
    status(message) == sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_PERSISTED
}

fn status(message: &BorrowedMessage<'_>) -> sys::rd_kafka_msg_status_t {
    // SAFETY: the message is alive for as long as the reference, and librdkafka only reads it.
    unsafe { sys::rd_kafka_message_status(message.ptr()) }
}

/// Describes topics, in the order of their names; `None` for one that does not exist. Blocks.
pub(super) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<Option<Described>>, RDKafkaErrorCode> {
    let invalid = RDKafkaErrorCode::InvalidArgument;
    let names: Vec<_> = names
        .iter()
        .map(|name| CString::new(name.as_str()))
        .collect();
    let names: Vec<_> = names
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|_| invalid)?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).map_err(|_| invalid)?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: the client outlives the call. The pointers are to strings that live until its end,
    // and their number is that of the strings; librdkafka copies them. Everything that is made here
    // is checked for null, and destroyed once, by its `Owned`. The error text may be null if its
    // size is 0.
    let event = unsafe {
        let topics =
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let topics = Owned::new(topics, sys::rd_kafka_TopicCollection_destroy)?;
        let options = sys::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
        let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy)?;
        let set = sys::rd_kafka_AdminOptions_set_request_timeout(
            options.pointer(),
            timeout_ms,
            std::ptr::null_mut(),
            0,
        );
        check(set)?;
        let queue = sys::rd_kafka_queue_new(client.native_ptr());
        let queue = Owned::new(queue, sys::rd_kafka_queue_destroy)?;
        sys::rd_kafka_DescribeTopics(
            client.native_ptr(),
            topics.pointer(),
            options.pointer(),
            queue.pointer(),
        );
        // The answer comes within the timeout, at the latest as an error; a little more for its
        // way.
        let event = sys::rd_kafka_queue_poll(queue.pointer(), timeout_ms.saturating_add(1_000));
        if event.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        Owned::new(event, sys::rd_kafka_event_destroy)?
    };
    // SAFETY: the event is alive until the end of this function. If it is not the answer to the
    // question above the result is null, which is checked.
    let topics = unsafe {
        check(sys::rd_kafka_event_error(event.pointer()))?;
        let result = sys::rd_kafka_event_DescribeTopics_result(event.pointer());
        if result.is_null() {
            return Err(RDKafkaErrorCode::InvalidType);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        slice(topics, count)
    };
    // SAFETY: the descriptions belong to the event, which is alive.
    topics
        .iter()
        .map(|topic| unsafe { described(*topic) })
        .collect()
}

/// # Safety
///
/// The description must be one of an answer that is alive.
unsafe fn described(
    topic: *const sys::rd_kafka_TopicDescription_t,
) -> Result<Option<Described>, RDKafkaErrorCode> {
    // SAFETY: the caller says that the description is alive; what it is asked for belongs to it,
    // and is null or of the length that is told with it. The text of an id belongs to the id.
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = sys::rd_kafka_error_code(error);
            if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART {
                return Ok(None);
            }
            check(code)?;
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return Err(RDKafkaErrorCode::UnknownTopicId);
        }
        let text = sys::rd_kafka_Uuid_base64str(id);
        if text.is_null() {
            return Err(RDKafkaErrorCode::UnknownTopicId);
        }
        let id = CStr::from_ptr(text).to_string_lossy().into_owned();
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let partitions = slice(partitions, count);
        let replicas = |partition: &*const sys::rd_kafka_TopicPartitionInfo_t| {
            let mut count = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*partition, &mut count);
            count
        };
        let fewest = partitions.iter().map(replicas).min().unwrap_or(0);
        Ok(Some(Described {
            id,
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            replicas: u32::try_from(fewest).unwrap_or(u32::MAX),
        }))
    }
}

/// # Safety
///
/// The pointer must be null, or lead to so many values that live for as long as the answer is used.
unsafe fn slice<'a, T>(first: *mut *const T, count: usize) -> &'a [*const T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: said by the caller.
    unsafe { std::slice::from_raw_parts(first, count) }
}

fn check(code: sys::rd_kafka_resp_err_t) -> Result<(), RDKafkaErrorCode> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(code.into()),
    }
}

/// Something that librdkafka has made for us, and wants back.
struct Owned<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    /// Fails if there is none.
    fn new(made: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, RDKafkaErrorCode> {
        let made = NonNull::new(made).ok_or(RDKafkaErrorCode::Fail)?;
        Ok(Self(made, destroy))
    }

    fn pointer(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is from the function that this one belongs to, and is given back only
        // here.
        unsafe { self.1(self.0.as_ptr()) };
    }
}

/// Makes the producer believe that the cluster has lost its records' numbers.
#[cfg(test)]
pub(super) fn fail_for_good<C: ClientContext>(client: &Client<C>) {
    let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client and the text live longer than the call, which copies the text.
    let set =
        unsafe { sys::rd_kafka_test_fatal_error(client.native_ptr(), code, c"test".as_ptr()) };
    assert_eq!(set, sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
}
