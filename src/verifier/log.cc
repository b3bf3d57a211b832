namespace bpftime::verifier {}
