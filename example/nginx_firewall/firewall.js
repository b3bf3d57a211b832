// The firewall in njs, as one writes it: a variable that the configuration asks. This njs has no memory that workers share,
// so nothing is counted.
import querystring from 'querystring';
import rules from 'rules.js';

const PATH_MAX = 512, ARGS_MAX = 1024;

function check(r) {
  let path = r.uri, args = r.variables.args;
  if (path.length > PATH_MAX) return '1';
  if (path.includes('%')) path = querystring.unescape(path);
  if (rules.path.test(path)) return '1';
  if (args) {
    if (args.length > ARGS_MAX) return '1';
    if (args.includes('%')) args = querystring.unescape(args);
    if (rules.args.test(args)) return '1';
  }
  return '';
}

export default {check};
