{{- define "weft.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "weft.binDir" -}}
{{- get (dict "default" "/opt/cni/bin" "rke2" "/opt/cni/bin" "talos" "/opt/cni/bin" "k3s" "/var/lib/rancher/k3s/data/cni" "gke" "/home/kubernetes/bin" "openshift" "/var/lib/cni/bin") .Values.preset -}}
{{- end -}}

{{- define "weft.confDir" -}}
{{- get (dict "default" "/etc/cni/net.d" "rke2" "/etc/cni/net.d" "talos" "/etc/cni/net.d" "k3s" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "gke" "/etc/cni/net.d" "openshift" "/etc/kubernetes/cni/net.d") .Values.preset -}}
{{- end -}}

{{- define "weft.runtimeDir" -}}
{{- get (dict "default" "/run/containerd" "talos" "/run/containerd" "gke" "/run/containerd" "k3s" "/run/k3s/containerd" "rke2" "/run/k3s/containerd" "openshift" "/run/crio") .Values.preset -}}
{{- end -}}

{{/*
The definitions of a file of files/crds. They stay when the release goes: their objects would go with them.
deploy/crds is a link to that directory, and not the other way round: Helm prints a line for each link in a chart.
*/}}
{{- define "weft.crds" -}}
{{- range splitList "\n---\n" (required "a file of deploy/crds is missing" .) }}
{{- $crd := fromYaml . }}
{{- $_ := set $crd.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}
---
{{ toYaml $crd }}
{{ end }}
{{- end -}}
