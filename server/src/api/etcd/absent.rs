//! Services of the wire that are not served (yet): every method answers `UNIMPLEMENTED` and says what to do instead.
//!
//! Invariants:
//! - Nothing here pretends: a client is told, and goes on without or stops.

use quorate_proto::etcd::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::errors::Refused;

/// Stands for each of the services.
pub struct AbsentDoor;

macro_rules! absent {
    ($service:path as $name:literal, $instead:literal; $($method:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl $service for AbsentDoor {
            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Refused::unimplemented($name, $instead).into())
            })*
        }
    };
}

absent! {
    pb::auth_server::Auth as "Auth", "there are no users yet, so connect without any";
    auth_enable(pb::AuthEnableRequest) -> pb::AuthEnableResponse;
    auth_disable(pb::AuthDisableRequest) -> pb::AuthDisableResponse;
    auth_status(pb::AuthStatusRequest) -> pb::AuthStatusResponse;
    authenticate(pb::AuthenticateRequest) -> pb::AuthenticateResponse;
    user_add(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse;
    user_get(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse;
    user_list(pb::AuthUserListRequest) -> pb::AuthUserListResponse;
    user_delete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse;
    user_change_password(pb::AuthUserChangePasswordRequest) -> pb::AuthUserChangePasswordResponse;
    user_grant_role(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse;
    user_revoke_role(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse;
    role_add(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse;
    role_get(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse;
    role_list(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse;
    role_delete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse;
    role_grant_permission(pb::AuthRoleGrantPermissionRequest) -> pb::AuthRoleGrantPermissionResponse;
    role_revoke_permission(pb::AuthRoleRevokePermissionRequest) -> pb::AuthRoleRevokePermissionResponse;
}
