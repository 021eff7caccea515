//! Every label, annotation and finalizer that the operator writes, in one place.

/// Label on what the operator makes: the artifact, `group.name` (a label value holds no colon).
pub const ARTIFACT: &str = "aether.dev/artifact";
/// Label on what the operator makes: the version, as far as a label value can say it.
pub const VERSION: &str = "aether.dev/version";
/// Label that tells one revision's pods from every other's: the name of their Deployment.
pub const REVISION: &str = "aether.dev/revision";
/// Label on version Services: the UID of the RollingUpdate that splits traffic with them.
pub const UPDATE_UID: &str = "aether.dev/update-uid";
/// Label on version Services: the release they belong to. They are deleted by it, and those of the next release are not.
pub const RELEASE: &str = "aether.dev/release";
/// Annotation on the workload: the version that carries the traffic.
pub const LIVE: &str = "aether.dev/live";
/// Annotation on the workload: the Deployment that runs the live version.
pub const LIVE_REVISION: &str = "aether.dev/live-revision";
/// Annotation on the workload while the operator holds it paused: hash of its pod template then.
pub const PAUSED_TEMPLATE: &str = "aether.dev/paused-template";
/// Annotation on a Deployment of ours: hash of the pod template that it was made with.
pub const BUILT_FROM: &str = "aether.dev/built-from";
/// Annotation on the workload: the RollingUpdate that keeps it paused while it runs the live version.
pub const ADOPTED: &str = "aether.dev/adopted-by";
/// Annotation on what a process that took over in the middle has turned round with: what its predecessor was about to
/// write there is refused. It goes with the pin, the pause and the split.
pub const FENCE: &str = "aether.dev/fence";
/// Label on the pods that the apex sends traffic to between 0 % and 100 % in Pods mode; its value is the new revision.
pub const SERVING: &str = "aether.dev/serving";
/// The label the Deployment controller puts on the pods of each ReplicaSet.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Finalizer on a RollingUpdate: traffic goes back before the object does.
pub const FINALIZER: &str = "aether.dev/traffic";
/// Finalizer on a ProxyPool: its proxies go before the object does.
pub const POOL_FINALIZER: &str = "aether.dev/proxies";
/// Annotation on a ProxyPool: proxies to replace at once, each by the cloud's id or its address, separated by commas.
/// An entry is answered once (`status.evicted`); whoever adds one may drop those that are answered.
pub const EVICT: &str = "aether.dev/evict";
/// Annotation on a ProxyPool: those of its proxies that the cloud's list no longer shows, all at once, are gone, says a
/// person. Its value is `status.epoch`, so it speaks of those alone that were ordered until then.
pub const GONE: &str = "aether.dev/gone";
/// Annotation on a RollingUpdate or ProxyPool: who last changed what is asked for. Set by the admission policy from who made the
/// request, and by the operator for whoever it took an order from over REST; nobody else may write another name.
pub const ORDERED_BY: &str = "aether.dev/ordered-by";
/// Label on what is published about a ProxyPool: its name.
pub const POOL: &str = "aether.dev/pool";
/// How every label and annotation of ours begins.
pub const OURS: &str = "aether.dev/";
/// Field manager of every write.
pub const FIELD_MANAGER: &str = "aether-operator";
/// Standard label of who manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
