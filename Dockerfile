# syntax=docker/dockerfile:1
# The operator and its CLI. Both stages are of one Debian release, so that what is built finds the C library it was built with.
#
#   docker build --build-arg VERSION=0.1.0 --tag aether-operator:0.1.0 .
#
# The test bed reads the last stage, and lays out the root folder of the pods it runs accordingly.

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --bins && \
    install -D --target-directory=/out target/dist/aether-operator target/dist/aether

# No shell and no package manager; the C library, its certificates of authorities, and who is nonroot.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="aether-operator" \
      org.opencontainers.image.description="Zero-downtime rolling updates with gradual traffic shifting, and proxy pools, for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/aether-operator /aether-operator
COPY --from=build /out/aether /aether
# By number: Pod Security cannot tell of a name that it is not root.
USER 65532:65532
# Nothing is looked for in a home, and nothing is written anywhere.
WORKDIR /
EXPOSE 8080 8081
ENTRYPOINT ["/aether-operator"]
CMD ["run"]
