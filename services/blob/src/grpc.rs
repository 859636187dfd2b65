//! The services on the wire: validates and converts, nothing else.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::BoxStream};
use proto::{
    blob::v1::{
        self as pb, blob_service_server::BlobService, content_service_server::ContentService,
        upload_request::Part,
    },
    error::v1::ErrorReason,
};
use runtime::{
    auth::user_caller,
    ids::{BlobId, ConversationId, InvalidId, UploadId, UserId},
    status::ApiError,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{
    Service,
    error::blob_not_found,
    model::{Purpose, Variant},
    receipts::{blob_pb, uploaded_pb},
    sign::Wanted,
    upload::{Beginning, Header, Receiving, Uploaded},
};

/// URLs of one call.
const URLS_MAX: usize = 100;

/// The services, as tonic wants them.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Arc<Service>,
}

impl Grpc {
    /// Speaks for this service.
    pub(crate) const fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[async_trait]
impl BlobService for Grpc {
    async fn upload(
        &self,
        request: Request<Streaming<pb::UploadRequest>>,
    ) -> Result<Response<pb::UploadResponse>, Status> {
        let owner = user_caller(&request)?.user_id;
        let mut parts = request.into_inner();
        let silence = self.service.config.silence_max;
        let first = tokio::time::timeout(silence, parts.message());
        let first = first.await.map_err(|_| silent())??;
        let Some(Part::Header(header)) = first.and_then(|request| request.part) else {
            let message = "the first message of an upload is its header";
            return Err(ApiError::field(ErrorReason::FieldRequired, "header", message).into());
        };
        let beginning = self.service.begin(owner, header_of(header)?).await?;
        let uploaded = match beginning {
            Beginning::There(uploaded) => *uploaded,
            Beginning::Receive(receiving) => {
                let data = parts.map(|message| match message.map(|m| m.part) {
                    Ok(Some(Part::Data(data))) => Ok(data),
                    Ok(_) => Err(ApiError::field(
                        ErrorReason::FieldMalformed,
                        "part",
                        "all messages of an upload but the first are data",
                    )),
                    Err(status) => Err(ApiError::unavailable(&status)),
                });
                receive(*receiving, data, silence).await?
            }
        };
        Ok(Response::new(uploaded_pb(&uploaded)))
    }

    async fn get_upload(
        &self,
        request: Request<pb::GetUploadRequest>,
    ) -> Result<Response<pb::GetUploadResponse>, Status> {
        let owner = user_caller(&request)?.user_id;
        let upload = id(
            &request.into_inner().upload_id,
            "upload_id",
            UploadId::parse,
        )?;
        let (received_bytes, finished) = self.service.progress(owner, upload).await?;
        Ok(Response::new(pb::GetUploadResponse {
            received_bytes,
            finished: finished.as_ref().map(uploaded_pb),
        }))
    }

    async fn batch_sign_urls(
        &self,
        request: Request<pb::BatchSignUrlsRequest>,
    ) -> Result<Response<pb::BatchSignUrlsResponse>, Status> {
        let caller = user_caller(&request)?;
        let token = request.metadata().get("authorization").cloned();
        let token = token.ok_or_else(|| {
            ApiError::new(ErrorReason::TokenMissing, "an access token is required")
        })?;
        let asked = request.into_inner().urls;
        if asked.is_empty() || asked.len() > URLS_MAX {
            let message = format!("1 to {URLS_MAX} at once");
            return Err(ApiError::field(ErrorReason::FieldOutOfRange, "urls", message).into());
        }
        let mut wanted = Vec::with_capacity(asked.len());
        for (at, asked) in asked.iter().enumerate() {
            wanted.push(wanted_of(caller.user_id, asked, at)?);
        }
        let located = self.service.locate(caller, &token, &wanted).await?;
        let urls = located.into_iter().map(|located| match located {
            Some(located) => pb::SignedUrl {
                url: located.url,
                expires_unix_ms: located.expires_unix_ms,
            },
            None => pb::SignedUrl::default(),
        });
        Ok(Response::new(pb::BatchSignUrlsResponse {
            urls: urls.collect(),
        }))
    }
}

/// Takes the bytes of an upload from whatever brings them.
pub(crate) async fn receive(
    mut receiving: Receiving,
    data: impl Stream<Item = Result<Bytes, ApiError>>,
    silence: std::time::Duration,
) -> Result<Uploaded, ApiError> {
    let replaced = receiving.replaced();
    let mut data = std::pin::pin!(data);
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(silence, data.next()) => next.map_err(|_| silent()),
            () = replaced.cancelled() => Err(ApiError::new(
                ErrorReason::UploadBusy,
                "a newer connection sends to this upload",
            )),
        };
        match next {
            Ok(Some(Ok(data))) => receiving.data(data).await?,
            Ok(None) => return receiving.finish().await,
            Ok(Some(Err(error))) | Err(error) => {
                receiving.interrupted().await;
                return Err(error);
            }
        }
    }
}

fn silent() -> ApiError {
    ApiError::new(
        ErrorReason::UploadSilent,
        "nothing came for too long; what came before is kept",
    )
}

#[async_trait]
impl ContentService for Grpc {
    async fn get_blob(
        &self,
        request: Request<pb::GetBlobRequest>,
    ) -> Result<Response<pb::GetBlobResponse>, Status> {
        let blob = id(&request.into_inner().blob_id, "blob_id", BlobId::parse)?;
        let found = self.service.store.blobs(vec![blob]).await;
        let found = found.map_err(ApiError::from)?.into_iter().next();
        let found = found.ok_or_else(blob_not_found)?;
        Ok(Response::new(pb::GetBlobResponse {
            blob: Some(blob_pb(&found)),
        }))
    }

    type DownloadStream = BoxStream<'static, Result<pb::DownloadResponse, Status>>;

    async fn download(
        &self,
        request: Request<pb::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let blob = id(&request.blob_id, "blob_id", BlobId::parse)?;
        let variant = variant(request.variant, "variant")?;
        let found = self.service.store.blobs(vec![blob]).await;
        let found = found.map_err(ApiError::from)?.into_iter().next();
        let place = found.and_then(|blob| blob.place(variant));
        let (key, media_type, total_bytes) = place.ok_or_else(blob_not_found)?;
        if request.offset >= total_bytes {
            let message = format!("there are {total_bytes} bytes");
            return Err(ApiError::field(ErrorReason::FieldOutOfRange, "offset", message).into());
        }
        let end = match request.length {
            0 => total_bytes,
            length => request.offset.saturating_add(length).min(total_bytes),
        };
        let bytes = self.service.objects.get(key, request.offset..end).await;
        let bytes = bytes.map_err(ApiError::from)?;
        let mut is_first = true;
        let parts = bytes.map(move |part| {
            let data = part.map_err(ApiError::from)?;
            let first = std::mem::replace(&mut is_first, false);
            Ok(pb::DownloadResponse {
                total_bytes: if first { total_bytes } else { 0 },
                media_type: match first {
                    true => media_type.name().to_owned(),
                    false => String::new(),
                },
                data,
            })
        });
        Ok(Response::new(parts.boxed()))
    }
}

fn header_of(header: pb::UploadHeader) -> Result<Header, ApiError> {
    let purpose = u32::try_from(header.purpose)
        .ok()
        .and_then(Purpose::from_number);
    Ok(Header {
        upload: id(&header.upload_id, "upload_id", UploadId::parse)?,
        offset: header.offset,
        size_bytes: header.size_bytes,
        sha256: header.sha256.try_into().map_err(|_| {
            ApiError::field(ErrorReason::FieldMalformed, "sha256", "must have 32 bytes")
        })?,
        purpose: purpose.ok_or_else(|| {
            ApiError::field(ErrorReason::FieldOutOfRange, "purpose", "unknown purpose")
        })?,
        poster_receipt: header.poster_receipt,
    })
}

fn wanted_of(caller: UserId, asked: &pb::UrlRequest, at: usize) -> Result<Wanted, ApiError> {
    let field = |name: &str| format!("urls[{at}].{name}");
    let event = match asked.conversation_id.is_empty() {
        true => None,
        false => {
            let parse = |text: &str| ConversationId::parse(text);
            let conversation = id(&asked.conversation_id, &field("conversation_id"), parse)?;
            if asked.seq == 0 {
                let message = "the seq of the event that has the blob";
                return Err(ApiError::field(
                    ErrorReason::FieldRequired,
                    field("seq"),
                    message,
                ));
            }
            Some((conversation, asked.seq))
        }
    };
    // Of a direct conversation of others, nothing needs to be asked.
    let event = event.filter(|(conversation, _)| {
        conversation.group_id().is_some() || conversation.peer_of(caller).is_some()
    });
    Ok(Wanted {
        blob: id(&asked.blob_id, &field("blob_id"), BlobId::parse)?,
        variant: variant(asked.variant, &field("variant"))?,
        event,
    })
}

fn variant(number: i32, field: &str) -> Result<Variant, ApiError> {
    match pb::Variant::try_from(number) {
        Ok(pb::Variant::Unspecified | pb::Variant::Original) => Ok(Variant::Original),
        Ok(pb::Variant::Small) => Ok(Variant::Small),
        Ok(pb::Variant::Large) => Ok(Variant::Large),
        Err(_) => Err(ApiError::field(
            ErrorReason::FieldOutOfRange,
            field,
            "unknown variant",
        )),
    }
}

fn id<T>(
    text: &str,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidId>,
) -> Result<T, ApiError> {
    if text.is_empty() {
        return Err(ApiError::field(
            ErrorReason::FieldRequired,
            field,
            "required",
        ));
    }
    parse(text)
        .map_err(|error| ApiError::field(ErrorReason::FieldMalformed, field, error.to_string()))
}
