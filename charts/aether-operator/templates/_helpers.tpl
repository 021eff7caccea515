{{- define "aether.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of what is cluster-wide: several releases that keep to their namespaces may have one name. */}}
{{- define "aether.clusterName" -}}
{{- include "aether.fullname" . }}{{ with .Values.watchNamespace }}-{{ $.Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "aether.account" -}}
{{- $default := ternary (include "aether.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{/* The CLI finds the operator's pods by the first one. */}}
{{- define "aether.selector" -}}
app.kubernetes.io/name: aether
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "aether.labels" -}}
{{ include "aether.selector" . }}
app.kubernetes.io/part-of: aether
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "aether.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the restricted Pod Security standard asks for. The image says who it runs as. */}}
{{- define "aether.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "aether.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pools may be, as JSON: [] is nowhere. */}}
{{- define "aether.poolNamespaces" -}}
{{- $all := .Values.proxyPools.namespaces -}}
{{- with .Values.watchNamespace -}}
{{- if $.Values.proxyPools.everywhere -}}{{- $all = list . -}}{{- end -}}
{{- range $all -}}
{{- if ne . $.Values.watchNamespace -}}
{{- fail (printf "proxyPools.namespaces: %s is not watched, since watchNamespace is %s; leave it out, or let watchNamespace be empty" . $.Values.watchNamespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $all | uniq | toJson -}}
{{- end -}}

{{/* Rights by their key in files/rules.yaml. */}}
{{- define "aether.rules" -}}
{{- toYaml (get (.root.Files.Get "files/rules.yaml" | fromYaml) .key) -}}
{{- end -}}

{{/* The operator's account as the subject of a binding. */}}
{{- define "aether.subjects" -}}
- kind: ServiceAccount
  name: {{ include "aether.account" . }}
  namespace: {{ .Release.Namespace | quote }}
{{- end -}}

{{/* Whether there are policies of a kind that Kubernetes has since a version. */}}
{{- define "aether.hasPolicies" -}}
{{- if and .root.Values.admissionPolicies.enabled (not .root.Values.watchNamespace) (semverCompare (printf ">=%s-0" .since) .root.Capabilities.KubeVersion.Version) -}}true{{- end -}}
{{- end -}}

{{/* A file of policies, in which the operator has the name of this release's account. */}}
{{- define "aether.policies" -}}
{{- $user := printf "system:serviceaccount:%s:%s" .root.Release.Namespace (include "aether.account" .root) -}}
{{- .root.Files.Get .file | replace "system:serviceaccount:aether-system:aether-operator" $user -}}
{{- end -}}

{{/* Two releases of one namespace would share a Lease, and one of them would never work. */}}
{{- define "aether.isAlone" -}}
{{- range (lookup "apps/v1" "Deployment" .Release.Namespace "").items -}}
{{- $labels := default dict .metadata.labels -}}
{{- $other := get $labels "app.kubernetes.io/instance" -}}
{{- if and (eq (get $labels "app.kubernetes.io/name") "aether") (eq (get $labels "app.kubernetes.io/component") "operator") (ne $other $.Release.Name) -}}
{{- fail (printf "release %s of Aether is in namespace %s already: upgrade that one, or choose another namespace" $other $.Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name: say which account there is, or let serviceAccount.create be true" -}}
{{- end -}}
{{- end -}}
