#define MANY_MAX 1024
